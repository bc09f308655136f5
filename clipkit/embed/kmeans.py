"""Groups of like rows: spherical k-means over the blocks of a store."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError, StoreError
from clipkit.types import Progress

SEEDED_FROM = 20_000
"""The first centres are drawn from a sample of so many rows."""


@dataclass(frozen=True, slots=True)
class Groups:
    """What k-means found.

    Attributes:
        rows: the rows that were grouped.
        group: of each row, in [0, groups); the largest group is 0.
        score: cosine of each row with the centre of its group.
        centres: of the groups, of length 1.
        steps: passes over the rows.
        settled: the last pass moved no row.
    """

    rows: Int[np.ndarray, " kept"]
    group: Int[np.ndarray, " kept"]
    score: Float[np.ndarray, " kept"]
    centres: Float[np.ndarray, "groups dim"]
    steps: int
    settled: bool

    def sizes(self) -> list[int]:
        """Return how many rows each group has."""
        sizes: list[int] = np.bincount(self.group, minlength=len(self.centres)).tolist()
        return sizes

    def nearest(self, group: int, count: int) -> list[int]:
        """Return the rows of a group that are nearest to its centre."""
        members = np.flatnonzero(self.group == group)
        order = np.argsort(-self.score[members], kind="stable")[:count]
        nearest: list[int] = self.rows[members[order]].tolist()
        return nearest


def group_rows(
    vectors: Vectors,
    groups: int,
    *,
    keep: Bool[np.ndarray, " rows"] | None = None,
    seed: int = 0,
    max_steps: int = 50,
    progress: Progress | None = None,
) -> Groups:
    """Group rows by the nearest of some centres, each the mean direction of its rows.

    Spherical k-means (Dhillon and Modha 2001, https://doi.org/10.1023/A:1007612920971): each pass
    gives every row to the centre with the largest cosine, of equal ones the first, and moves each
    centre to the direction of the sum of its rows. The first centres are drawn by k-means++ (Arthur
    and Vassilvitskii 2007). A group that loses all its rows is given the row that is worst placed.
    The same seed gives the same groups.

    Args:
        vectors: all rows of a store.
        groups: how many.
        keep: for each row whether it is grouped.
        seed: chooses the first centres.
        max_steps: passes at most.
        progress: told how many passes are done, and of how many at most.

    Raises:
        ConfigError: `groups` or `max_steps` is below 1.
        StoreError: there are fewer rows than groups.
    """
    for name, value in (("groups", groups), ("max_steps", max_steps)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    rows = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
    if len(rows) < groups:
        raise StoreError(f"{len(rows)} rows cannot make {groups} groups")
    centres = _first(vectors, rows, groups, seed)
    group = np.full(len(vectors), -1)
    settled, step = False, 0
    while not settled and step < max_steps:
        sums, moved, score = _pass(vectors, keep, centres, group)
        step += 1
        settled = moved == 0 and step > 1
        if not settled:
            centres = _moved(vectors, rows, sums, group, score)
        if progress is not None:
            progress(step, max_steps)
    if not settled:  # the centres moved after the rows had been given to them
        _, _, score = _pass(vectors, keep, centres, group)
    order = np.argsort(-np.bincount(group[rows], minlength=groups), kind="stable")
    number = np.empty(groups, np.int64)
    number[order] = np.arange(groups)
    return Groups(
        rows, number[group[rows]], score[rows], centres.numpy()[order].copy(), step, settled
    )


def _first(
    vectors: Vectors, rows: np.ndarray, groups: int, seed: int
) -> Float[Tensor, "groups dim"]:
    """Draw centres one by one, each the likelier the farther it is from those before it."""
    rng = np.random.default_rng(seed)
    size = min(len(rows), max(SEEDED_FROM, 10 * groups))
    sample = torch.from_numpy(
        vectors.take(np.sort(rng.choice(rows, size, replace=False))).astype(np.float32)
    )
    chosen = [int(rng.integers(size))]
    apart = 1 - sample @ sample[chosen[0]]
    while len(chosen) < groups:
        apart[chosen] = 0
        weights = apart.clamp(min=0).double().numpy()
        if not weights.sum() > 0:  # all that is left is equal to a centre
            left = np.setdiff1d(np.arange(size), chosen)
            chosen.append(int(rng.choice(left)))
            continue
        chosen.append(int(rng.choice(size, p=weights / weights.sum())))
        apart = torch.minimum(apart, 1 - sample @ sample[chosen[-1]])
    return torch.nn.functional.normalize(sample[chosen], dim=1)


def _pass(
    vectors: Vectors, keep: np.ndarray | None, centres: Tensor, group: np.ndarray
) -> tuple[Float[Tensor, "groups dim"], int, Float[np.ndarray, " rows"]]:
    """Give every row to its nearest centre; return sums, rows that moved, and cosines."""
    sums = torch.zeros(centres.shape, dtype=torch.float64)
    score = np.zeros(len(vectors), np.float32)
    moved = 0
    for start, block in vectors.blocks(keep=keep):
        best = (block @ centres.T).max(1)
        places = slice(start, start + len(block))
        found = best.indices.numpy()
        good = np.ones(len(block), bool) if keep is None else keep[places]
        moved += int((found != group[places])[good].sum())
        group[places] = np.where(good, found, -1)
        score[places] = best.values.numpy()
        sums.index_add_(0, best.indices[torch.from_numpy(good)], block[good].double())
    return sums, moved, score


def _moved(
    vectors: Vectors, rows: np.ndarray, sums: Tensor, group: np.ndarray, score: np.ndarray
) -> Float[Tensor, "groups dim"]:
    """Return the directions of the sums; an empty group gets the row that is worst placed."""
    centres = torch.nn.functional.normalize(sums, dim=1).float()
    sizes = np.bincount(group[rows], minlength=len(sums))
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        worst = rows[np.argsort(score[rows], kind="stable")[: len(empty)]]
        taken = torch.from_numpy(vectors.take(worst).astype(np.float32))
        centres[empty] = torch.nn.functional.normalize(taken, dim=1)
    return centres
