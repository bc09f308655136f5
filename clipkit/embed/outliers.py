"""Outliers: rows that have nothing like them in the store."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError, StoreError
from clipkit.types import Progress

_BLOCK = 2_048


@dataclass(frozen=True, slots=True)
class Outlier:
    """A row, and how alone it is.

    Attributes:
        row: its place in the store.
        score: mean cosine with its nearest other rows; the lower, the more of an outlier.
    """

    row: int
    score: float


def neighbour_scores(
    vectors: Vectors,
    k: int = 10,
    *,
    keep: Bool[np.ndarray, " rows"] | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Int[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """Return the rows that were looked at, and of each the mean cosine with its k nearest others.

    Products are float32. Rows are compared block by block, so memory does not grow with their
    number but for one score a row; the time grows with its square, or with that of `sample`.

    Args:
        vectors: all rows of a store.
        k: how many neighbours; all others where there are fewer.
        keep: for each row whether it is looked at, and counts as a neighbour.
        sample: look for neighbours among so many rows, drawn at random; among all when `None`.
        seed: chooses these.
        progress: told how many rows are done, and of how many.

    Raises:
        ConfigError: `k` or `sample` is below 1, or `sample` is not above `k`.
        StoreError: there are fewer than two rows.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")
    if sample is not None and sample <= k:
        raise ConfigError(f"sample must be above k, which is {k}, not {sample}")
    rows = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
    if len(rows) < 2:
        raise StoreError(f"outliers need two rows at least, not {len(rows)}")
    among = np.zeros(len(vectors), bool)
    chosen = rows
    if sample is not None and sample < len(rows):
        chosen = np.random.default_rng(seed).choice(rows, sample, replace=False)
    among[chosen] = True
    k = min(k, len(chosen) - 1)
    scores = np.zeros(len(vectors), np.float32)
    for start, block in vectors.blocks(_BLOCK, keep=keep):
        held = block.clone()
        best = torch.full((len(held), k), -torch.inf)
        for other, against in vectors.blocks(_BLOCK, keep=among):
            cosines = held @ against.T
            cosines[:, ~torch.from_numpy(among[other : other + len(against)])] = -torch.inf
            if start == other:
                cosines.fill_diagonal_(-torch.inf)
            near = cosines.topk(min(k, len(against)), dim=1).values
            best = torch.cat([best, near], 1).topk(k, dim=1).values
        scores[start : start + len(held)] = best.mean(1).numpy()
        if progress is not None:
            progress(start + len(held), len(vectors))
    return rows, scores[rows]


def find_outliers(
    vectors: Vectors,
    count: int = 100,
    *,
    k: int = 10,
    keep: Bool[np.ndarray, " rows"] | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Outlier]:
    """Return the rows with the lowest mean cosine to their k nearest others, the lowest first.

    Of equal ones the earlier row comes first; see `neighbour_scores` for the arguments.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    rows, scores = neighbour_scores(
        vectors, k, keep=keep, sample=sample, seed=seed, progress=progress
    )
    lowest = np.argsort(scores, kind="stable")[:count]
    return [Outlier(int(rows[at]), float(scores[at])) for at in lowest]
