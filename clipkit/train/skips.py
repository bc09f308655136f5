"""Rows that could not be decoded, over all loaders of a run."""

from collections.abc import Iterable

from clipkit.data.loader import Loader
from clipkit.types import Reject


class Skips:
    """Keeps what loaders rejected, of which a run has one an epoch.

    Example:
        >>> skips = Skips()
        >>> skips.add([Reject("b", "why"), Reject("a", "why"), Reject("b", "why")])
        >>> [reject.id for reject in skips.rejects()]
        ['a', 'b']
    """

    def __init__(self) -> None:
        """Know of none yet."""
        self._known: dict[str, Reject] = {}
        self._loader: Loader | None = None

    def follow(self, loader: Loader) -> None:
        """Take over what the loader before found, and what this one will find."""
        self.rejects()
        self._loader = loader

    def add(self, rejects: Iterable[Reject]) -> None:
        """Add rows, such as those that a run had found before it was resumed."""
        self._known.update((reject.id, reject) for reject in rejects)

    def rejects(self) -> list[Reject]:
        """Return the rows so far, by their ids."""
        if self._loader is not None:
            self.add(self._loader.rejects)
        return [reject for _, reject in sorted(self._known.items())]
