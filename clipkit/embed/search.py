"""Exact search: one block of rows at a time, so memory does not grow with the store."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

BLOCK_ROWS = 16_384


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
    """

    id: str
    score: float
    kind: str
    caption: str | None
    label: str | None
    path: str | None
    metadata: dict[str, Any]


def top_hits(
    shards: Iterable[pa.Table], query: Float[np.ndarray, " dim"], k: int, kind: str | None
) -> list[Hit]:
    """Return the k rows nearest to a query; of equal scores the earlier row comes first.

    Args:
        shards: tables with the columns of a store.
        query: of length 1.
        k: how many rows at most.
        kind: the rows to look among, all when `None`.
    """
    best: list[tuple[float, int, Hit]] = []
    at = 0
    for table in shards:
        for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
            flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            scores = flat.reshape(len(batch), -1).astype(np.float32, copy=False) @ query
            if kind is not None:
                kinds = batch.column("kind").to_numpy(zero_copy_only=False)
                scores = np.where(kinds == kind, scores, -np.inf)
            floor = best[0][0] if len(best) == k else -np.inf
            for row in np.argsort(-scores, kind="stable")[:k]:
                score = float(scores[row])
                if (score <= floor and len(best) == k) or score == -np.inf:
                    break
                entry = (score, -(at + int(row)), _hit(batch, int(row), score))
                if len(best) < k:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
            at += len(batch)
    return [hit for _, _, hit in sorted(best, key=lambda entry: entry[:2], reverse=True)]


def _hit(batch: pa.RecordBatch, row: int, score: float) -> Hit:
    names = [name for name in batch.schema.names if name != "embedding"]
    values = {name: batch.column(name)[row].as_py() for name in names}
    plain = {name: values.pop(name) for name in ("id", "kind", "caption", "label", "path")}
    return Hit(**plain, score=score, metadata=values)
