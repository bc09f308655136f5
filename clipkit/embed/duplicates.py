"""Near-duplicates: groups of rows whose embeddings are almost the same."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.embed.search import exact_cosines, rounding
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from clipkit.types import Progress

_BLOCK = 2_048
_PAIRS = 8_192  # scored in float64 at once


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row of a group of near-duplicates.

    Attributes:
        group: its number, counted from 0 in the order of the groups' first rows.
        row: its place in the store; the first row of a group is the one to keep.
        score: cosine with the row of its group that it is nearest to.
        nearest: that row.
    """

    group: int
    row: int
    score: float
    nearest: int


def find_duplicates(
    vectors: Vectors,
    threshold: float = 0.95,
    *,
    keep: Bool[np.ndarray, " rows"] | None = None,
    progress: Progress | None = None,
) -> list[Duplicate]:
    """Return all rows that have a near-duplicate, group by group.

    Two rows are near-duplicates where their cosine, in float64 over the stored numbers, is at least
    the threshold; a group is all rows that such pairs connect, so two of its rows may be less alike
    than that. All pairs are compared, which takes a time that grows with the square of the rows;
    the memory does not.

    Args:
        vectors: all rows of a store.
        threshold: the least cosine.
        keep: for each row whether it is looked at.
        progress: told how many rows are compared with all, and of how many.

    Raises:
        ConfigError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must be a cosine above 0 and at most 1, not {threshold}")
    parent = np.arange(len(vectors))
    score = np.full(len(vectors), -np.inf)
    nearest = np.full(len(vectors), -1)
    for start, block in vectors.blocks(_BLOCK, keep=keep):
        held = block.clone()
        for other, against in vectors.blocks(_BLOCK, keep=keep, start=start):
            pairs = _pairs(held, against, start, other, threshold, keep)
            left, right, scores = _exact(held, against, pairs, threshold)
            left, right = left + start, right + other
            if len(left):
                _join(parent, left, right)
                _nearer(score, nearest, left, right, scores)
                _nearer(score, nearest, right, left, scores)
        if progress is not None:
            progress(start + len(held), len(vectors))
    return _groups(_roots(parent), score, nearest)


def _pairs(
    block: Float[Tensor, "rows dim"],
    against: Float[Tensor, "others dim"],
    start: int,
    other: int,
    threshold: float,
    keep: np.ndarray | None,
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Return the pairs, each once, that a float32 product does not rule out."""
    cosines = normalize(block) @ normalize(against).T  # float16 leaves lengths a little beside 1
    near = cosines >= threshold - 2 * rounding(block.shape[1])
    if keep is not None:
        near &= torch.from_numpy(keep[start : start + len(block)])[:, None]
        near &= torch.from_numpy(keep[other : other + len(against)])
    if start == other:
        near = near.triu(1)
    left, right = near.nonzero(as_tuple=True)
    return left.numpy(), right.numpy()


def _exact(
    block: Tensor,
    against: Tensor,
    pairs: tuple[np.ndarray, np.ndarray],
    threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs that are near-duplicates, with their cosines."""
    left, right = pairs
    scores = np.zeros(len(left))
    for at in range(0, len(left), _PAIRS):
        part = slice(at, at + _PAIRS)
        cosines = exact_cosines(block.numpy()[left[part]], against.numpy()[right[part]])
        scores[part] = np.minimum(cosines, 1)
    good = scores >= threshold
    return left[good], right[good], scores[good]


def _join(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Connect the groups of pairs; the root of a group is its first row."""
    pairs = np.unique(np.stack([_find(parent, left), _find(parent, right)]), axis=1)
    for a, b in pairs.T.tolist():
        first, second = sorted((_root(parent, a), _root(parent, b)))
        parent[second] = first


def _find(parent: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = parent[rows]
    while not np.array_equal(above := parent[found], found):
        found = above
    parent[rows] = found
    roots: np.ndarray = found
    return roots


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        row = int(parent[row])
    return row


def _roots(parent: np.ndarray) -> np.ndarray:
    return _find(parent, np.arange(len(parent)))


def _nearer(
    score: np.ndarray, nearest: np.ndarray, rows: np.ndarray, others: np.ndarray, found: np.ndarray
) -> None:
    """Note for each row the other one that it is nearest to, of equal ones the earliest."""
    order = np.lexsort((others, -found, rows))
    rows, others, found = rows[order], others[order], found[order]
    first = np.r_[True, rows[1:] != rows[:-1]]
    rows, others, found = rows[first], others[first], found[first]
    better = (found > score[rows]) | ((found == score[rows]) & (others < nearest[rows]))
    score[rows[better]], nearest[rows[better]] = found[better], others[better]


def _groups(root: np.ndarray, score: np.ndarray, nearest: np.ndarray) -> list[Duplicate]:
    rows = np.flatnonzero(nearest >= 0)
    rows = rows[np.lexsort((rows, root[rows]))]
    numbers = {first: at for at, first in enumerate(dict.fromkeys(root[rows].tolist()))}
    return [
        Duplicate(numbers[int(root[row])], int(row), float(score[row]), int(nearest[row]))
        for row in rows
    ]
