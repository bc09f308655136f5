import sys
from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.index import SearchIndex, build_index, find_index
from clipkit.embed.search import nearest_rows
from clipkit.embed.store import EmbeddingStore
from clipkit.errors import ConfigError, MissingExtraError, StoreError
from tests.embed.made_stores import make_store, unit

KINDS = ["image", "text"] * 300


def clustered(rows: int, dim: int, centres: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = unit(centres, dim)[rng.integers(0, centres, rows)] + 0.1 * unit(rows, dim, seed=1)
    made: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return made


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    embeddings = clustered(600, 16, 40)
    return make_store(tmp_path / "store", embeddings, kinds=KINDS, what="both", shard_rows=250)


def opened(store: EmbeddingStore, kind: str | None = None) -> SearchIndex:
    found = find_index(store.path, store.fingerprint(), kind, needed=True)
    assert found is not None
    return found


def test_it_finds_what_an_exact_search_finds(store: EmbeddingStore) -> None:
    info = store.build_index(recall=0.99, sample=50)
    assert info.recall_at_10 >= 0.99
    assert (info.rows, info.kind, info.sampled) == (600, "all", 50)
    queries = unit(20, 16, seed=7)
    mine, rows = opened(store).search(store.vectors(), queries, 10, expansion=600)
    _, expected = nearest_rows(store.vectors(), queries, 10)
    shared = [len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shared) > 0.95
    stored = store.embeddings().astype(float)
    for query, scores, places in zip(queries, mine, rows, strict=True):
        np.testing.assert_allclose(scores, stored[places] @ query, rtol=0, atol=1e-14)
        assert (np.diff(scores) <= 0).all()


def test_its_recall_is_that_of_its_searches(store: EmbeddingStore) -> None:
    info = store.build_index(sample=600, recall=0.5, connectivity=2, expansion_add=1)
    index, found = opened(store), []
    for row, query in enumerate(store.embeddings().astype(float)):
        query /= np.linalg.norm(query)
        scores = store.embeddings().astype(float) @ query
        wanted = [at for at in np.argsort(-scores, kind="stable")[:11] if at != row][:10]
        rows = index.search(store.vectors(), query[None], 11)[1][0]
        found.append(len(set(wanted) & set(rows.tolist())) / 10)
    assert np.mean(found) == pytest.approx(info.recall_at_10, abs=0.01)
    assert info.recall_at_10 < 1  # so poor a graph misses some


def test_a_graph_in_parts_still_gives_k_rows(store: EmbeddingStore) -> None:
    store.build_index(recall=0.01, connectivity=2, expansion_add=1)
    queries = store.embeddings()[:600:7].astype(float)
    found = opened(store).search(store.vectors(), queries, 11)[1]
    _, rows = store.nearest(queries, 11, index=True)
    _, exact = store.nearest(queries, 11)
    short = (found < 0).any(axis=1)
    assert short.any()
    assert rows[short].tolist() == exact[short].tolist()
    assert rows[~short].tolist() == found[~short].tolist()


def test_rows_of_one_kind(store: EmbeddingStore) -> None:
    assert store.build_index(kind="text").rows == 300
    hits = store.search(unit(1, 16, seed=3)[0], k=10, kind="text", index=True)
    assert {hit.kind for hit in hits} == {"text"}
    with pytest.raises(StoreError, match=r"no index of image rows.*--kind image"):
        store.search(unit(1, 16)[0], kind="image", index=True)


def test_it_is_made_once_and_refused_when_the_rows_changed(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    first = store.build_index()
    assert store.build_index() == first
    assert store.build_index(again=True).build_seconds != first.build_seconds
    other = make_store(tmp_path / "other", clustered(599, 16, 9), shard_rows=250)
    (store.path / "search").rename(other.path / "search")
    with pytest.raises(StoreError, match="made before its rows changed"):
        other.search(unit(1, 16)[0], index=True)
    assert find_index(other.path, other.fingerprint(), None, needed=False) is None
    assert other.build_index().rows == 599
    assert len(other.search(unit(1, 16)[0], index=True)) == 10


def test_a_damaged_file(store: EmbeddingStore) -> None:
    store.build_index()
    path = store.path / "search" / "index-all.usearch"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="is damaged"):
        opened(store)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="is damaged"):
        opened(store)
    path.unlink()
    with pytest.raises(StoreError, match="no index"):
        opened(store)


def test_options_that_cannot_be_used(
    store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, word in (
        ({"recall": 98}, "recall"),
        ({"sample": 0}, "sample"),
        ({"connectivity": 1}, "connectivity"),
        ({"expansion_add": 0}, "expansion_add"),
    ):
        with pytest.raises(ConfigError, match=word):
            build_index(store.path, "sha256:0", store.vectors(), **options)  # type: ignore[arg-type]
    pictures = make_store(tmp_path / "pictures", unit(5, 4))
    with pytest.raises(StoreError, match="no text rows"):
        pictures.build_index(kind="text")
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match=r"clipkit\[search\]"):
        store.build_index()
