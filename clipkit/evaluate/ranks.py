"""Ranks of matches among everything, block by block: the matrix of scores is never whole."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 1024
COLUMNS = 8192
"""Size of the blocks that scores are computed in."""

PAIRS = 16384
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
        exact = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        for part in matches.split(PAIRS):
            scores = pair_scores(rows[part[:, 0]], others[part[:, 1]])
            exact.scatter_reduce_(0, part[:, 0], scores, "amax")
        length = _longest(rows) * _longest(others)
        error = 2 * rows.shape[1] * torch.finfo(rows.dtype).eps * length
        low, high = (exact - error).to(rows.dtype), (exact + error).to(rows.dtype)
        return cls(exact, low, high, 2 * rows.shape[1] * torch.finfo(torch.float64).eps * length)


def _longest(rows: Tensor) -> float:
    """Return the greatest length of rows, of those that are numbers."""
    return float(rows.norm(dim=1).nan_to_num(0.0).max())


def pair_scores(
    rows: Float[Tensor, "pairs dim"], others: Float[Tensor, "pairs dim"]
) -> Float[Tensor, " pairs"]:
    """Return the product of each row with its other in double precision."""
    return (rows.double() * others.double()).sum(1)


def _ranks(first: Tensor, second: Tensor, matches: Tensor, *, ways: int) -> list[Ranks]:
    """Count what scores at least as high as the best match, one way or both."""
    ranks = [
        torch.zeros(len(side), dtype=torch.long, device=first.device)
        for side in (first, second)[:ways]
    ]
    if not len(first) or not len(second):
        return ranks
    best = [Best.of(first, second, matches), Best.of(second, first, matches.flip(1))][:ways]
    for rows, columns, row, column in blocks(len(first), len(second), matches):
        scores = first[rows] @ second[columns].T
        scores[row, column] = -torch.inf
        ranks[0][rows] += _count(scores, best[0], rows, first[rows], second[columns])
        if ways == 2:
            ranks[1][columns] += _count(scores.T, best[1], columns, second[columns], first[rows])
    for side, (rank, found) in enumerate(zip(ranks, best, strict=True)):
        rank[found.exact == -torch.inf] = len((second, first)[side])
    return ranks


def _count(scores: Tensor, best: Best, place: slice, rows: Tensor, columns: Tensor) -> Tensor:
    """Count the columns of a block that score at least as high as each row's best match.

    Args:
        scores: rounded, -inf for matches.
        best: of all rows.
        place: of the block's rows among them.
        rows: their features.
        columns: features of the block's columns.
    """
    above = ~(scores <= best.high[place, None])  # what is no number is never in a match's favour
    near = (scores >= best.low[place, None]) & ~above
    count = above.sum(1)
    floor = best.exact[place] - best.exact_error
    row, column = near.nonzero(as_tuple=True)
    if len(row) * 64 > scores.numel():  # a model that can hardly tell: a product costs less
        exact = rows.double() @ columns.double().T
        return count + ((exact >= floor[:, None]) & near).sum(1)
    for part in torch.arange(len(row), device=row.device).split(PAIRS):
        exact = pair_scores(rows[row[part]], columns[column[part]])
        count.index_add_(0, row[part], (exact >= floor[row[part]]).long())
    return count


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
