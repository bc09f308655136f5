"""None of the labels: a threshold, or prompts of what else there may be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit.errors import ConfigError

OTHER = "other"
"""What is answered for an image that is of none of the labels."""

Other = float | np.number[Any] | str | Sequence[str] | None
"""A probability that the likeliest label must have, or texts that stand for anything else."""


def resolve_other(other: Other) -> tuple[tuple[str, ...], float | None]:
    """Return the prompts of what else there may be, and the threshold; one of them at most.

    Raises:
        ConfigError: a threshold outside (0, 1), no text, or an empty one.

    >>> resolve_other(0.3), resolve_other("a photo")
    (((), 0.3), (('a photo',), None))
    """
    if other is None:
        return (), None
    if isinstance(other, int | float | np.number):
        if isinstance(other, bool) or not 0 < other < 1:
            raise ConfigError(f"other: a threshold lies between 0 and 1, not {other!r}")
        return (), float(other)
    texts = (other,) if isinstance(other, str) else tuple(other)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f"other: {other!r} is neither a threshold nor a text or several")
    return texts, None
