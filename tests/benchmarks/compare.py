"""Whether two contenders came to the same: without that, their times say nothing."""

from collections.abc import Callable, Mapping

import numpy as np

Answer = Mapping[str, np.ndarray]
"""Arrays by name; one that has no name is called "answer"."""

Compare = Callable[[Answer, Answer], str]
"""Says how alike two answers are, the first being the one to go by; raises ValueError otherwise."""


def pairs(expected: Answer, found: Answer) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the arrays of two answers side by side.

    Raises:
        ValueError: one lacks what the other has, or shapes differ.
    """
    if set(expected) != set(found) or not expected:
        raise ValueError(f"one gives {sorted(expected)}, the other {sorted(found)}")
    for name in expected:
        if expected[name].shape != found[name].shape:
            raise ValueError(f"{name} is {found[name].shape}, not {expected[name].shape}")
    return [(name, expected[name], found[name]) for name in expected]


def same_direction(at_least: float) -> Compare:
    """Embeddings, row by row, by their cosine; those of another length than 1 are made that long.

    Args:
        at_least: what no row's cosine may be below.
    """

    def compare(expected: Answer, found: Answer) -> str:
        each = []
        for _, a, b in pairs(expected, found):
            a, b = a.astype(np.float64), b.astype(np.float64)
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            each.append(((a * b).sum(1) / lengths).min())
        least = float(np.min(each))  # nan where there is one
        if not least >= at_least:
            raise ValueError(f"least cosine {least:.5f}")
        return f"cosine {least:.5f}"

    return compare


def same_numbers(at_most: float) -> Compare:
    """Numbers, by their largest difference.

    Args:
        at_most: what no difference may be above.
    """

    def compare(expected: Answer, found: Answer) -> str:
        each = []
        for _, a, b in pairs(expected, found):
            each.append(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        most = float(np.max(each))
        if not most <= at_most:
            raise ValueError(f"largest difference {most:.1e}")
        return f"difference {most:.0e}"

    return compare


def same_for_scale(at_most: float) -> Compare:
    """Numbers, by their largest difference as a share of the largest number of the array.

    Args:
        at_most: what no such share may be above.
    """

    def compare(expected: Answer, found: Answer) -> str:
        each = []
        for _, a, b in pairs(expected, found):
            a, b = a.astype(np.float64), b.astype(np.float64)
            each.append(np.abs(a - b).max() / np.abs(a).max())
        most = float(np.max(each))
        if not most <= at_most:
            raise ValueError(f"largest difference {most:.1e} of the largest number")
        return f"difference {most:.0e}"

    return compare
