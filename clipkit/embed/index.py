"""An index for searches that may miss a row: a graph of near neighbours (HNSW), mapped from a file.

Malkov and Yashunin 2016, arXiv 1603.09320. The graph finds candidates by their float16 embeddings;
these are scored in float64 like those of an exact search. What such a search misses is measured
when the index is made, and it is searched as widely as the recall that is wanted needs.

    search/index-<kind>.usearch   the graph and the embeddings in it
    search/index-<kind>.json      the rows it is of, how it is searched, what that was seen to miss
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipkit.embed.search import Nearest, exact_scores, nearest_rows
from clipkit.embed.vectors import SEARCH, Vectors
from clipkit.errors import ConfigError, MissingExtraError, StoreError
from clipkit.packages import default_threads, new_file, replace_file
from clipkit.types import Progress

EXPANSIONS = (32, 64, 128, 256, 512, 1024, 2048)
"""How many candidates a search keeps: as few of these as give the recall that is wanted."""

FETCHED = 4
"""Candidates that are scored in float64, for each row that is asked for."""

_COUNTED = 10  # rows a sampled query asks for: recall@10
_BLOCK = 8_192


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What is known of an index.

    Attributes:
        fingerprint: of the shards it was made from.
        kind: "image", "text" or "all": the rows that are in it.
        rows: how many these are.
        connectivity: neighbours a row has in the graph.
        expansion_add: candidates that were kept while a row was put in.
        expansion_search: candidates that a search keeps.
        recall_at_10: share of the 10 nearest that it finds, as measured.
        sampled: rows of the store that this was measured with, each as the query.
        build_seconds: what it took to make.
        exact_seconds: of an exact search for one query, as measured.
        index_seconds: of a search by the index for one query.
    """

    fingerprint: str
    kind: str
    rows: int
    connectivity: int
    expansion_add: int
    expansion_search: int
    recall_at_10: float
    sampled: int
    build_seconds: float
    exact_seconds: float
    index_seconds: float


class SearchIndex:
    """An index that is ready to be searched.

    Args:
        graph: what `usearch` opened.
        info: what is known of it.
    """

    def __init__(self, graph: Any, info: IndexInfo) -> None:
        """Search as widely as was measured."""
        self.info = info
        self._graph = graph

    def search(
        self,
        vectors: Vectors,
        queries: Float[np.ndarray, "queries dim"],
        k: int,
        *,
        expansion: int | None = None,
    ) -> Nearest:
        """Return the k rows with the largest products, of those that the graph finds.

        A graph may be in parts that do not know of each other, as where very many rows are equal;
        where it finds fewer than k rows, the others are -1.

        Args:
            vectors: all rows of the store.
            queries: float64, of length 1.
            k: how many rows; all that are in the index where these are fewer.
            expansion: candidates to keep; what was measured when `None`.
        """
        k = min(k, self.info.rows)
        fetched = min(FETCHED * k, self.info.rows)
        self._graph.expansion_search = max(expansion or self.info.expansion_search, fetched)
        found = self._graph.search(queries.astype(np.float16), fetched, threads=default_threads())
        keys = found.keys.astype(np.int64).reshape(len(queries), -1)
        counts = found.counts if len(queries) > 1 else [keys.shape[1]]  # one query has no counts
        scores, rows = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
        for at, query in enumerate(queries):
            numbers = np.sort(keys[at, : counts[at]])
            exact = exact_scores(vectors.take(numbers), query[None])
            best = np.argsort(-exact, kind="stable")[:k]
            scores[at, : len(best)], rows[at, : len(best)] = exact[best], numbers[best]
        return scores, rows


def build_index(
    folder: Path,
    fingerprint: str,
    vectors: Vectors,
    *,
    kind: str | None = None,
    keep: Bool[np.ndarray, " rows"] | None = None,
    recall: float = 0.98,
    sample: int = 200,
    connectivity: int = 16,
    expansion_add: int = 128,
    again: bool = False,
    progress: Progress | None = None,
) -> IndexInfo:
    """Make the index of a store; one that is there and fits is left as it is.

    Args:
        folder: of the store.
        fingerprint: of its shards.
        vectors: all its rows.
        kind: "image" or "text" for an index of these rows alone.
        keep: for each row whether it is of that kind.
        recall: share of the 10 nearest that a search is to find, on average.
        sample: rows to measure that with.
        connectivity: neighbours a row has in the graph.
        expansion_add: candidates to keep while a row is put in: more is slower and better.
        again: make it even if it is there.
        progress: told how many rows are in, and of how many.

    Raises:
        ConfigError: for an option that cannot be used.
        StoreError: there are no rows.
        MissingExtraError: usearch is not installed.
    """
    if not 0 < recall <= 1:
        raise ConfigError(f"recall must be between 0 and 1, not {recall}")
    for name, value in (("sample", sample), ("expansion_add", expansion_add)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if connectivity < 2:
        raise ConfigError(f"connectivity must be at least 2, not {connectivity}")
    there = _read_info(_path(folder, kind, "json"))
    if there and there.fingerprint == fingerprint and not again:
        return there
    rows = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
    if not len(rows):
        raise StoreError(f"{folder} has no {kind or ''} rows to index".replace("  ", " "))
    start = time.perf_counter()
    graph = _fill(vectors, rows, keep, connectivity, expansion_add, progress)
    seconds = time.perf_counter() - start
    info = IndexInfo(
        fingerprint, kind or "all", len(rows), connectivity, expansion_add, 0, 0, 0, seconds, 0, 0
    )
    info = _measure(SearchIndex(graph, info), vectors, rows, keep, recall, sample)
    target = _path(folder, kind, "usearch")
    target.parent.mkdir(parents=True, exist_ok=True)
    _path(folder, kind, "json").unlink(missing_ok=True)  # the graph is not what it tells of
    with new_file(target) as part:
        graph.save(str(part))
    replace_file(_path(folder, kind, "json"), json.dumps(asdict(info), indent=2).encode() + b"\n")
    return info


def find_index(
    folder: Path, fingerprint: str, kind: str | None, *, needed: bool
) -> SearchIndex | None:
    """Open the index of a store, mapped rather than read.

    Args:
        folder: of the store.
        fingerprint: of its shards, which the index must be of.
        kind: "image" or "text" for the index of these rows alone.
        needed: say why there is none, rather than return `None`.

    Raises:
        StoreError: there is none, or it is of other rows, or damaged, and it is needed.
    """
    option = f" --kind {kind}" if kind else ""
    again = f"run `clipkit store index {folder}{option}`"
    info, path = _read_info(_path(folder, kind, "json")), _path(folder, kind, "usearch")
    problem = ""
    if info is None or not path.is_file():
        problem = f"{folder} has no index of {kind or 'all'} rows: {again}"
    elif info.fingerprint != fingerprint:
        problem = f"the index of {folder} was made before its rows changed: {again}"
    else:
        try:
            graph = _usearch().Index.restore(str(path), view=True)
            if graph is not None and len(graph) == info.rows:
                return SearchIndex(graph, info)
        except (RuntimeError, ValueError, OSError):
            pass
        problem = f"{path} is damaged: {again} --again"
    if needed:
        raise StoreError(problem)
    return None


def index_infos(folder: Path) -> list[IndexInfo]:
    """Return what is known of the indexes of a store, whether they fit it or not."""
    found = [_read_info(path) for path in sorted((folder / SEARCH).glob("index-*.json"))]
    return [info for info in found if info is not None]


def _fill(
    vectors: Vectors,
    rows: np.ndarray,
    keep: np.ndarray | None,
    connectivity: int,
    expansion_add: int,
    progress: Progress | None,
) -> Any:
    graph = _usearch().Index(
        ndim=vectors.dim,
        metric="ip",
        dtype="f16",
        connectivity=connectivity,
        expansion_add=expansion_add,
    )
    for start, block in vectors.blocks(_BLOCK, keep=keep):
        numbers = np.arange(start, start + len(block))
        if keep is not None:
            numbers = numbers[keep[numbers]]
        part = block.numpy()[numbers - start].astype(np.float16)
        graph.add(numbers.astype(np.uint64), part, threads=default_threads())
        if progress is not None:
            progress(len(graph), len(rows))
    return graph


def _measure(
    index: SearchIndex,
    vectors: Vectors,
    rows: np.ndarray,
    keep: np.ndarray | None,
    recall: float,
    sample: int,
) -> IndexInfo:
    """Widen the search until it finds enough of what an exact one finds."""
    count = min(sample, len(rows))
    chosen = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
    queries = vectors.take(chosen).astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k = _COUNTED + 1  # a row finds itself
    _, exact = nearest_rows(vectors, queries, k, keep=keep)
    start = time.perf_counter()
    nearest_rows(vectors, queries[:1], k, keep=keep)
    exact_seconds = time.perf_counter() - start
    for expansion in EXPANSIONS:
        start = time.perf_counter()
        _, found = index.search(vectors, queries, k, expansion=expansion)
        seconds = (time.perf_counter() - start) / count
        share = _recall(exact, found, chosen)
        if share >= recall:
            break
    measured = {
        "expansion_search": expansion,
        "recall_at_10": share,
        "sampled": count,
        "exact_seconds": exact_seconds,
        "index_seconds": seconds,
    }
    return IndexInfo(**{**asdict(index.info), **measured})


def _recall(exact: np.ndarray, found: np.ndarray, own: Sequence[int] | np.ndarray) -> float:
    """Return the share of the nearest rows that were found, the query's own row apart."""
    shares = []
    for wanted, there, row in zip(exact.tolist(), found.tolist(), own, strict=True):
        others = [place for place in wanted if place != row][:_COUNTED]
        shares.append(len({*others} & {*there}) / len(others) if others else 1.0)
    return float(np.mean(shares))


def _path(folder: Path, kind: str | None, suffix: str) -> Path:
    return folder / SEARCH / f"index-{kind or 'all'}.{suffix}"


def _read_info(path: Path) -> IndexInfo | None:
    try:
        return IndexInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise MissingExtraError("an index", "search") from None
    return usearch.index
