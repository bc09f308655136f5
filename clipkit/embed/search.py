"""Exact search: float32 finds who may be among the nearest, float64 says who is.

Blocks of rows are multiplied with the queries in float32, which is fast. How far such a product can
be from the true one is known, so only rows that come that near to the best so far are multiplied
again in float64. The result is that of a search in float64, and memory does not grow with the rows.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipkit.embed.rows import RESERVED
from clipkit.embed.vectors import Vectors

QUERIES = 256
"""Queries that are searched for together; more of them take another pass over the rows."""

_PAIRS = 8_192  # scored in float64 at once
_PLAIN = ("id", "kind", "caption", "label", "path")


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search found.

    Attributes:
        id: of the row.
        score: cosine with the query, in [-1, 1].
        kind: "image" or "text".
        caption: the text, or an image's first caption.
        label: of the row, or `None`.
        path: the image's file, or `None`.
        metadata: the further columns.
        row: its place in the store, counted from 0.
    """

    id: str
    score: float
    kind: str
    caption: str | None
    label: str | None
    path: str | None
    metadata: dict[str, Any]
    row: int


def make_hit(values: dict[str, Any], row: int, score: float) -> Hit:
    """Return a hit from the columns of its row."""
    metadata = {key: value for key, value in values.items() if key not in RESERVED}
    return Hit(**{key: values[key] for key in _PLAIN}, score=score, metadata=metadata, row=row)


Nearest = tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]
"""Scores in float64, best first, and the numbers of the rows."""


def nearest_rows(
    vectors: Vectors,
    queries: Float[np.ndarray, "queries dim"],
    k: int,
    *,
    keep: Bool[np.ndarray, " rows"] | None = None,
) -> Nearest:
    """Return the k rows with the largest products, exactly.

    A score is the float64 sum of the products with the numbers as they are stored; of equal scores
    the earlier row comes first. A row with a number that is not finite is never found.

    Args:
        vectors: rows of length 1.
        queries: float64, of length 1.
        k: how many rows; all of them where there are fewer.
        keep: for each row whether it may be found.
    """
    found = len(vectors) if keep is None else int(keep.sum())
    k = min(k, found)
    parts = [
        _search(vectors, queries[start : start + QUERIES], k, keep)
        for start in range(0, len(queries) if k else 0, QUERIES)
    ]
    if not parts:
        return np.zeros((len(queries), 0)), np.zeros((len(queries), 0), np.int64)
    scores, rows = zip(*parts, strict=True)
    good = min(int((chunk >= 0).sum(1).min()) for chunk in rows)  # fewer where some are not finite
    return np.concatenate(scores)[:, :good], np.concatenate(rows)[:, :good]


def rounding(dim: int) -> float:
    """Return how far a float32 product of two rows of length 1 can be from the true one."""
    return 1.1 * (dim + 2) * 2.0**-24


def exact_scores(
    rows: Float[np.ndarray, "pairs dim"], queries: Float[np.ndarray, "#pairs dim"]
) -> Float[np.ndarray, " pairs"]:
    """Multiply pairs in float64; equal rows get equal scores, wherever they stand."""
    scores: np.ndarray = (rows.astype(np.float64) * queries).sum(axis=1)
    return scores


def exact_cosines(
    rows: Float[np.ndarray, "pairs dim"], others: Float[np.ndarray, "pairs dim"]
) -> Float[np.ndarray, " pairs"]:
    """Return the cosine of pairs in float64; float16 leaves lengths a little beside 1."""
    a, b = rows.astype(np.float64), others.astype(np.float64)
    cosines: np.ndarray = exact_scores(a, b) / np.sqrt(exact_scores(a, a) * exact_scores(b, b))
    return cosines


def _search(vectors: Vectors, queries: np.ndarray, k: int, keep: np.ndarray | None) -> Nearest:
    """Search parts of the rows in as many threads as torch has, each part in one of them.

    Threads that share a product wait for each other at every block, which costs more than it saves.
    """
    threads = torch.get_num_threads()
    ends = [len(vectors) * part // threads for part in range(threads + 1)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(
                lambda span: _search_part(vectors, queries, k, keep, *span), pairwise(ends)
            )
            scores, rows = zip(*parts, strict=True)
    finally:
        torch.set_num_threads(threads)
    best, places = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")[:, :k]  # earlier parts have earlier rows
    return np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)


def _search_part(
    vectors: Vectors, queries: np.ndarray, k: int, keep: np.ndarray | None, start: int, stop: int
) -> Nearest:
    best = np.full((len(queries), k), -np.inf)
    places = np.full((len(queries), k), -1, np.int64)
    margin = rounding(vectors.dim)
    single = torch.from_numpy(queries.astype(np.float32)).T.contiguous()
    for first, block in vectors.blocks(keep=keep, start=start, stop=stop):
        scores = block @ single
        if keep is not None:
            scores[~torch.from_numpy(keep[first : first + len(block)])] = -torch.inf
        floor = torch.from_numpy(best[:, -1] - margin)
        at, query = _candidates(scores, floor, k, margin)
        if len(at):
            _merge(best, places, query, _score(block, queries, at, query), at + first)
    return best, places


def _candidates(
    scores: Float[Tensor, "rows queries"], floor: Float[Tensor, " queries"], k: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows may be among the k best of which queries."""
    floor = torch.nextafter(floor.float(), torch.tensor(-torch.inf))  # float() may round it up
    floor = floor.clamp(min=torch.finfo(torch.float32).min)  # rows that do not count have -inf
    good = scores >= floor
    many = good.sum(0) > 4 * k
    if many.any() and k < len(scores):
        kth = scores[:, many].topk(k, dim=0).values[-1]
        # At least k rows of this block are, truly, not below kth - margin.
        floor[many] = torch.maximum(floor[many], kth - 2.001 * margin)
        good = scores >= floor
    at, query = good.nonzero(as_tuple=True)
    return at.numpy(), query.numpy()


def _score(
    block: Float[Tensor, "rows dim"], queries: np.ndarray, at: np.ndarray, query: np.ndarray
) -> Float[np.ndarray, " pairs"]:
    rows = block.numpy()
    parts = [
        exact_scores(rows[at[part]], queries[query[part]])
        for part in (slice(s, s + _PAIRS) for s in range(0, len(at), _PAIRS))
    ]
    return np.concatenate(parts)


def _merge(
    best: np.ndarray, places: np.ndarray, query: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> None:
    """Put pairs of a query and a row among the best; the pairs of a block come in row order."""
    order = np.lexsort((rows, -scores, query))
    query, scores, rows = query[order], scores[order], rows[order]
    starts = np.searchsorted(query, np.arange(len(best) + 1))
    for which in np.unique(query):
        part = slice(starts[which], min(starts[which + 1], starts[which] + best.shape[1]))
        joined = np.concatenate([best[which], scores[part]])
        numbers = np.concatenate([places[which], rows[part]])
        # Stable, and held rows stand first: they are earlier rows than those of this block.
        chosen = np.argsort(-joined, kind="stable")[: best.shape[1]]
        best[which], places[which] = joined[chosen], numbers[chosen]
