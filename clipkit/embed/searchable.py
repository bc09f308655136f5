"""What can be asked of a store: which rows are near, by an exact search or by an index."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float
from PIL.Image import Image

from clipkit.embed.filters import Filter, as_expression
from clipkit.embed.index import IndexInfo, SearchIndex, build_index, find_index
from clipkit.embed.query import Query, combine, encode_queries
from clipkit.embed.search import Hit, Nearest, make_hit, nearest_rows
from clipkit.embed.vectors import Vectors, find_vectors, shards_fingerprint, stored_matrix
from clipkit.errors import StoreError
from clipkit.models import DualEncoder
from clipkit.types import Progress

EXACT_ROWS = 1_000_000
"""A store of up to so many rows is searched exactly unless an index is asked for."""

_ROW = "__row__"  # the number of a row, while it is filtered


class Searchable(ABC):
    """The questions that an `EmbeddingStore` answers, over the files that it reads.

    Attributes:
        path: the folder of the store.
        info: its `StoreInfo`.
    """

    path: Path
    info: Any

    def __init__(self) -> None:
        """Open nothing yet."""
        self._vectors: Vectors | None = None
        self._indexes: dict[str | None, SearchIndex] = {}

    @abstractmethod
    def iter_shards(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards one by one as tables."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Return the columns."""

    @abstractmethod
    def rows_at(
        self, rows: Sequence[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return some rows, without their embeddings."""

    @abstractmethod
    def _matching(self, model: DualEncoder | None) -> DualEncoder:
        """Return the model, once its fingerprint is known to be that of the store."""

    def fingerprint(self) -> str:
        """Return `sha256:...`, which changes when a row does."""
        return shards_fingerprint(self.info.shards, self.info.dim, self.info.dtype)

    def vectors(self) -> Vectors:
        """Return the embeddings to be read block by block; those of a large store get a file.

        Raises:
            StoreError: a shard is missing or damaged, or the embeddings have not length 1.
        """
        if not self.info.normalised:
            raise StoreError(f"{self.path} holds features that have not length 1: no cosines")
        if self._vectors is None:
            self._vectors = find_vectors(
                self.path,
                self.fingerprint(),
                lambda: map(_stored, self.iter_shards(["embedding"])),
                rows=self.info.rows,
                dim=self.info.dim,
                dtype=self.info.dtype,
            )
        return self._vectors

    def matching(
        self, filter: Filter | None = None, kind: str | None = None
    ) -> Bool[np.ndarray, " rows"] | None:
        """Return for each row whether a filter keeps it; `None` where there is none.

        Args:
            filter: values by column, such as `{"label": "cat"}`, or an expression of pyarrow.
            kind: "image" or "text" to keep these rows alone.

        Raises:
            StoreError: there is no such column, or its values are of another type.
        """
        if kind not in (None, "image", "text"):
            raise StoreError(f"kind must be 'image' or 'text', not {kind!r}")
        if filter is None and kind is None:
            return None
        schema = self.schema()
        expression, columns = as_expression({} if filter is None else filter, schema)
        if kind is not None:
            expression, columns = expression & (pc.field("kind") == kind), ["kind", *columns]
        keep = np.zeros(self.info.rows, bool)
        start = 0
        for table in self.iter_shards(sorted(set(columns))):
            numbered = table.append_column(_ROW, pa.array(np.arange(start, start + len(table))))
            try:
                keep[numbered.filter(expression)[_ROW].to_numpy()] = True
            except (pa.ArrowException, KeyError) as error:
                raise StoreError(
                    f"the filter cannot be used: {str(error).splitlines()[0]}"
                ) from None
            start += len(table)
        return keep

    def encode_queries(
        self, queries: Sequence[Query], model: DualEncoder | None = None
    ) -> Float[np.ndarray, "queries dim"]:
        """Return texts, images and embeddings as vectors of length 1, in float64.

        Args:
            queries: any number of them.
            model: encodes them; the one that made the store is loaded when `None`.
        """
        return encode_queries(queries, self.info.dim, lambda: self._matching(model))

    def nearest(
        self,
        queries: Float[np.ndarray, "queries dim"],
        k: int = 10,
        *,
        filter: Filter | None = None,
        kind: str | None = None,
        index: bool | None = None,
    ) -> Nearest:
        """Return scores [queries, k] and row numbers of the rows nearest to each of many queries.

        Args:
            queries: embeddings, of any length but 0.
            k: how many rows; all there are where there are fewer.
            filter: which rows to look among, see `matching`.
            kind: "image" or "text" to look among these rows alone.
            index: search the index that `clipkit store index` made, which may miss some rows; not,
                when `False`; and when `None`, where the store has more than a million rows and an
                index that fits the question.

        Raises:
            StoreError: a query does not fit, or there is no index for it.
        """
        if k < 1:
            raise StoreError(f"k must be at least 1, not {k}")
        vectors = encode_queries(list(queries), self.info.dim, lambda: self._matching(None))
        chosen = self.choose_index(filter=filter, kind=kind, index=index)
        if chosen is None:
            return nearest_rows(self.vectors(), vectors, k, keep=self.matching(filter, kind))
        scores, rows = chosen.search(self.vectors(), vectors, k)
        short = (rows < 0).any(axis=1)  # the index found too few: these are searched for exactly
        if short.any():
            keep = self.matching(kind=kind)
            scores[short], rows[short] = nearest_rows(self.vectors(), vectors[short], k, keep=keep)
        return scores, rows

    def build_index(
        self,
        *,
        kind: str | None = None,
        recall: float = 0.98,
        sample: int = 200,
        connectivity: int = 16,
        expansion_add: int = 128,
        again: bool = False,
        progress: Progress | None = None,
    ) -> IndexInfo:
        """Make the index that large stores are searched by; see `clipkit.embed.index.build_index`.

        It takes as much memory as the embeddings in float16 and a third more.
        """
        self._indexes.clear()
        return build_index(
            self.path,
            self.fingerprint(),
            self.vectors(),
            kind=kind,
            keep=self.matching(kind=kind),
            recall=recall,
            sample=sample,
            connectivity=connectivity,
            expansion_add=expansion_add,
            again=again,
            progress=progress,
        )

    def choose_index(
        self, *, filter: Filter | None = None, kind: str | None = None, index: bool | None = None
    ) -> SearchIndex | None:
        """Return the index that a search uses, or `None` where it is exact; see `nearest`."""
        if index is False or (index is None and self.info.rows <= EXACT_ROWS):
            return None
        if filter is not None:
            if index:
                raise StoreError(
                    "an index knows no filter: search exactly, or filter by kind alone"
                )
            return None
        if kind not in self._indexes:
            found = find_index(self.path, self.fingerprint(), kind, needed=index is True)
            if found is None:
                return None
            self._indexes[kind] = found
        return self._indexes[kind]

    def search(
        self,
        query: Query | Sequence[Query],
        k: int = 10,
        *,
        minus: Query | Sequence[Query] = (),
        filter: Filter | None = None,
        kind: str | None = None,
        model: DualEncoder | None = None,
        index: bool | None = None,
    ) -> list[Hit]:
        """Return the k rows nearest to a query by cosine, the nearest first.

        The search is exact (see `clipkit.embed.search`) unless it is by an index.

        Args:
            query: a text; a `Path` or PIL image for an image; an embedding [dim]; or several of
                them, whose directions are added.
            k: how many rows at most.
            minus: one or several that are subtracted.
            filter: which rows to look among: `{"label": "cat"}`, several values as a list, or an
                expression of pyarrow such as `pyarrow.compute.field("year") > 2020`.
            kind: "image" or "text" to look among these rows alone.
            model: encodes the query; the one that made the store is loaded when `None`.
            index: see `nearest`.

        Raises:
            StoreError: the model is not the one that made the store, or the query does not fit.
        """
        plus, less = _several(query), _several(minus)
        if not plus:
            raise StoreError("the query is empty: give a text, an image or an embedding")
        encoded = self.encode_queries([*plus, *less], model)
        vector = combine(encoded[: len(plus)], encoded[len(plus) :])
        return self._hits(vector[None], k, filter=filter, kind=kind, index=index)[0]

    def search_many(
        self,
        queries: Sequence[Query] | Float[np.ndarray, "queries dim"],
        k: int = 10,
        *,
        filter: Filter | None = None,
        kind: str | None = None,
        model: DualEncoder | None = None,
        index: bool | None = None,
    ) -> list[list[Hit]]:
        """Search for many queries in one pass over the store; for each what `search` returns."""
        encoded = self.encode_queries(list(queries), model)
        return self._hits(encoded, k, filter=filter, kind=kind, index=index)

    def _hits(
        self,
        vectors: Float[np.ndarray, "queries dim"],
        k: int,
        *,
        filter: Filter | None,
        kind: str | None,
        index: bool | None,
    ) -> list[list[Hit]]:
        scores, rows = self.nearest(vectors, k, filter=filter, kind=kind, index=index)
        numbers = np.unique(rows)
        told = dict(zip(numbers.tolist(), self.rows_at(numbers.tolist()), strict=True))
        return [
            [make_hit(told[row], row, score) for row, score in zip(places, values, strict=True)]
            for places, values in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


def _several(query: Query | Sequence[Query]) -> list[Query]:
    if isinstance(query, str | Path | Image | np.ndarray):
        return [query]
    return list(query)


def _stored(table: pa.Table) -> Float[np.ndarray, "rows dim"]:
    """Return a shard's embeddings in the precision they are stored in."""
    return stored_matrix(table["embedding"])
