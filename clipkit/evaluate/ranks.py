"""Ranks of matches among everything, block by block: the matrix of scores is never whole."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 1024
COLUMNS = 2048
"""Size of the blocks that scores are computed in."""

FEW = 64
"""Scores are listed one by one where there are fewer than one in so many."""

PAIRS = 8192
"""Pairs whose scores are computed at a time, one by one."""

Ranks = Int[Tensor, " rows"]


def match_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    matches: Int[Tensor, "pairs 2"],
) -> Int[Tensor, " queries"]:
    """Return the rank (from 0) of each query's best match in the gallery.

    An image with five captions, or a caption that two images share, is answered by any of its
    matches. The rank is the number of non-matching rows that score at least as high as the best
    match: a model that gives everything the same score ranks last, not first. A query without a
    match ranks behind the whole gallery.

    Args:
        queries: L2-normalised.
        gallery: L2-normalised.
        matches: rows (query, gallery row) that belong together, each pair once.
    """
    return _ranks(queries, gallery, matches, ways=1)[0]


def match_ranks_both_ways(
    first: Float[Tensor, "first dim"],
    second: Float[Tensor, "second dim"],
    matches: Int[Tensor, "pairs 2"],
) -> tuple[Int[Tensor, " first"], Int[Tensor, " second"]]:
    """Return the ranks of first's best matches in second, and of second's in first, in one go.

    They are those of `match_ranks`; each score is computed once for the two.

    Args:
        first: L2-normalised.
        second: L2-normalised.
        matches: rows (of first, of second) that belong together, each pair once.
    """
    there, back = _ranks(first, second, matches, ways=2)
    return there, back


@dataclass(frozen=True, slots=True)
class Best:
    """The score of each row's best match, and what a rounded score may be where it is as high.

    Scores of blocks are rounded in single precision, and not all alike. So those that are near the
    best match's are computed again, as that one was: in double precision, where products of single
    numbers are exact and only equal scores are as close as `exact_error`.

    Attributes:
        exact: the score, -inf where there is no match.
        low: a rounded score below it is lower for sure.
        high: a rounded score above it is higher for sure.
        exact_error: the most that a score in double precision can be off.
    """

    exact: Float[Tensor, " rows"]
    low: Float[Tensor, " rows"]
    high: Float[Tensor, " rows"]
    exact_error: float

    @classmethod
    def of(cls, rows: Tensor, others: Tensor, matches: Tensor) -> "Best":
        """Find it by the matches alone; `matches` has the row first."""
        exact = torch.full((len(rows),), -torch.inf, dtype=torch.float64)
        row, other = matches.unbind(1)
        scores = torch.from_numpy(pair_scores(rows, others, row.numpy(), other.numpy()))
        exact.scatter_reduce_(0, row, scores.nan_to_num(-torch.inf), "amax")
        # A sum of n products is off by n half-steps of rounding at most, whatever their order, and
        # what it is compared with by one.
        length = (rows.shape[1] + 2) * _longest(rows) * _longest(others)
        error = 0.51 * torch.finfo(rows.dtype).eps * length
        low, high = (exact - error).to(rows.dtype), (exact + error).to(rows.dtype)
        return cls(exact, low, high, 2 * torch.finfo(torch.float64).eps * length)

    def at(self, place: slice) -> "Best":
        """Return that of some rows."""
        return Best(self.exact[place], self.low[place], self.high[place], self.exact_error)


def _longest(rows: Tensor) -> float:
    """Return the greatest length of rows, of those that are numbers."""
    return float(rows.norm(dim=1).nan_to_num(0.0, posinf=0.0).max())


def pair_scores(
    rows: Float[Tensor, "rows dim"],
    others: Float[Tensor, "others dim"],
    row: Int[np.ndarray, " pairs"],
    other: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Return the product of some rows with some others, one by one, in double precision."""
    left, right = rows.numpy(), others.numpy()
    scores = np.empty(len(row))
    for start in range(0, len(row), PAIRS):
        part = slice(start, start + PAIRS)
        pair = (left[row[part]], right[other[part]])
        scores[part] = np.einsum("pd,pd->p", *pair, dtype=np.float64)
    return scores


def _ranks(first: Tensor, second: Tensor, matches: Tensor, *, ways: int) -> list[Ranks]:
    """Count what scores at least as high as the best match, one way or both."""
    ranks = [torch.zeros(len(side), dtype=torch.long) for side in (first, second)[:ways]]
    if not len(first) or not len(second):
        return ranks
    best = [Best.of(first, second, matches), Best.of(second, first, matches.flip(1))][:ways]
    broken = [~side.isfinite().all(1) for side in (first, second)]
    for rows, columns, row, column in blocks(len(first), len(second), matches):
        block = Block(first[rows], second[columns])
        if bool(broken[0].any() or broken[1].any()):
            # What is no number is never in a match's favour: others all come before it.
            block.scores[broken[0][rows]] = torch.inf
            block.scores[:, broken[1][columns]] = torch.inf
        block.scores[row, column] = -torch.inf
        for way, (side, place) in enumerate(((0, rows), (1, columns))[:ways]):
            ranks[way][place] += block.count(best[way].at(place), side)
    for side, (rank, found) in enumerate(zip(ranks, best, strict=True)):
        rank[found.exact == -torch.inf] = len((second, first)[side])
    return ranks


class Block:
    """A part of the matrix of scores.

    What is counted in it is counted by NumPy, which takes a tenth of the time of the product; torch
    would widen each truth value to eight bytes first, and wait for its threads each time.

    Args:
        rows: features.
        columns: likewise.

    Attributes:
        scores: rounded; -inf for matches.
    """

    def __init__(
        self, rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"]
    ) -> None:
        """Compute the scores."""
        self.features = (rows, columns)
        self.scores = rows @ columns.T

    def count(self, best: Best, side: int) -> Int[Tensor, " queries"]:
        """Count what scores at least as high as the best match of each row, or of each column.

        Args:
            best: of the block's rows (or columns).
            side: 0 for rows, 1 for columns.
        """
        scores = self.scores.numpy()
        floor = best.exact - best.exact_error
        low, high, least = (
            each.numpy()[:, None] if side == 0 else each.numpy()
            for each in (best.low, best.high, floor)
        )
        candidates = scores >= low
        count = np.count_nonzero(candidates, axis=1 - side)
        if count.sum() * FEW < scores.size:  # a good model: so few that they can be listed
            places = np.divmod(np.flatnonzero(candidates), scores.shape[1])
            near = scores[places] <= high.ravel()[places[side]]
            places = (places[0][near], places[1][near])
        else:
            undecided = candidates & (scores <= high)
            if np.count_nonzero(undecided) * FEW > scores.size:  # it can hardly tell
                exact = (self.features[0].double() @ self.features[1].double().T).numpy()
                lower = np.count_nonzero(undecided & ~(exact >= least), axis=1 - side)
                return torch.from_numpy(count - lower)
            places = np.divmod(np.flatnonzero(undecided), scores.shape[1])
        lower = pair_scores(*self.features, *places) < floor.numpy()[places[side]]
        count -= np.bincount(places[side][lower], minlength=len(count))
        return torch.from_numpy(count)


def blocks(
    rows: int, columns: int, pairs: Int[Tensor, "pairs 2"]
) -> Iterator[tuple[slice, slice, Int[Tensor, " inside"], Int[Tensor, " inside"]]]:
    """Cut a matrix of rows x columns into blocks, and find the pairs that lie in each.

    Yields:
        The rows and columns of a block, and row and column of each pair in it, counted from the
        block's own corner.
    """
    pairs = pairs[pairs[:, 0].argsort()]
    starts = torch.arange(0, rows + ROWS, ROWS, device=pairs.device)
    cuts = torch.searchsorted(pairs[:, 0].contiguous(), starts).tolist()
    for number, start in enumerate(range(0, rows, ROWS)):
        here = pairs[cuts[number] : cuts[number + 1]]
        for left in range(0, columns, COLUMNS):
            inside = here[(here[:, 1] >= left) & (here[:, 1] < left + COLUMNS)]
            yield (
                slice(start, min(start + ROWS, rows)),
                slice(left, min(left + COLUMNS, columns)),
                inside[:, 0] - start,
                inside[:, 1] - left,
            )
