"""The exceptions that clipkit raises on purpose.

    ClipkitError
    ├── ConfigError        a recipe, an override or a command-line value that cannot be used
    ├── DataError          a data set that cannot be read, or has nothing usable in it
    │   ├── ImageError     one image that cannot be used (becomes a reject, not a crash)
    │   └── RejectedError  more rows were rejected than `max_rejected` allows
    ├── ModelError         a model name, folder or file that cannot be loaded
    ├── StoreError         an embedding store that cannot be read, written or searched
    ├── MissingExtraError  an optional package is not installed; names the pip line that mends it
    └── Interrupted        a signal asked a run to stop, and what it had is saved

Each message says what went wrong, where, the value met, and what would work, in one sentence. The
command line prints that sentence alone and exits with 2, or after a signal with 128 and its number.
"""

import difflib
from collections.abc import Iterable


class ClipkitError(Exception):
    """Anything that clipkit refuses to do, with the reason in its message."""


class ConfigError(ClipkitError):
    """A recipe, an override or an argument that cannot be used.

    Args:
        message: one problem, or a heading for several.
        problems: the single problems, printed one a line below the heading.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        """Join the heading and the problems into one message."""
        self.problems = tuple(problems)
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in self.problems)]))


class DataError(ClipkitError):
    """A data set that cannot be read, or has nothing usable in it."""


class ImageError(DataError):
    """One image that cannot be used; its message is the reason in a list of rejects."""


class RejectedError(DataError):
    """More rows were rejected than `max_rejected` allows."""


class ModelError(ClipkitError):
    """A model name, folder or file that cannot be loaded."""


class StoreError(ClipkitError):
    """An embedding store that cannot be read, written or searched."""


class MissingExtraError(ClipkitError):
    """An optional package is not installed.

    Args:
        what: the feature that needs it.
        extra: the extra of clipkit that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        """Name the feature and the pip line that mends it."""
        super().__init__(
            f'{what} needs packages that are not installed: pip install "clipkit[{extra}]"'
        )


class Interrupted(ClipkitError):
    """A signal asked a run to stop.

    Args:
        message: what was stopped, and how it goes on.
        signal_number: of the signal.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        """Keep the number."""
        super().__init__(message)
        self.signal_number = signal_number


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, else the list of known names.

    >>> did_you_mean("retreival", ["retrieval", "zero_shot"])
    "; did you mean 'retrieval'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
