from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from clipkit.embed import searchable, vectors
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import StoreError
from clipkit.models.dual_encoder import DualEncoder
from tests.embed.made_stores import make_store, unit

KINDS = ["image", "text"] * 15
COLUMNS: dict[str, Sequence[Any]] = {
    "label": ["cat", "dog", None] * 10,
    "year": list(range(2000, 2030)),
}


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_store(
        tmp_path / "store",
        unit(30, 6),
        dtype="float16",
        kinds=KINDS,
        what="both",
        shard_rows=8,
        columns=COLUMNS,
    )


def expected(store: EmbeddingStore, query: np.ndarray, rows: list[int], k: int) -> list[int]:
    scores = store.embeddings().astype(float) @ query
    return sorted(rows, key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("in_memory", [True, False])
def test_hits_are_the_rows_with_all_their_columns(
    store: EmbeddingStore, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(vectors, "IN_MEMORY", 0)
    query = unit(1, 6, seed=1)[0]
    hits = store.search(query * 3, k=7)
    rows = expected(store, query, list(range(30)), 7)
    assert [hit.row for hit in hits] == rows
    assert [hit.id for hit in hits] == [str(row) for row in rows]
    assert [hit.kind for hit in hits] == [KINDS[row] for row in rows]
    assert [hit.label for hit in hits] == [COLUMNS["label"][row] for row in rows]
    assert [hit.metadata for hit in hits] == [{"year": 2000 + row} for row in rows]
    scores = store.embeddings().astype(float)[rows] @ query
    np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-14)


@pytest.mark.parametrize("kind", [None, "text"])
@pytest.mark.parametrize("by", ["label", "several", "expression", "nothing"])
def test_filters(store: EmbeddingStore, kind: str | None, by: str) -> None:
    cases: dict[str, tuple[Any, Callable[[int], bool]]] = {
        "label": ({"label": "cat"}, lambda row: row % 3 == 0),
        "several": ({"label": ["dog", None]}, lambda row: row % 3 > 0),
        "expression": (pc.field("year") >= 2020, lambda row: row >= 20),
        "nothing": (None, lambda row: row >= 0),
    }
    given, kept = cases[by]
    rows = [row for row in range(30) if kept(row) and kind in (None, KINDS[row])]
    query = unit(1, 6, seed=2)[0]
    hits = store.search(query, k=6, filter=given, kind=kind)
    assert [hit.row for hit in hits] == expected(store, query, rows, 6)
    assert store.search(query, filter={"label": "bird"}) == []


def test_many_queries_are_as_one_by_one(store: EmbeddingStore) -> None:
    queries = unit(9, 6, seed=3)
    assert store.search_many(queries, k=4) == [store.search(query, k=4) for query in queries]
    assert store.search_many([], k=4) == []
    _, rows = store.nearest(queries, 40)
    assert rows.shape == (9, 30)


def test_texts_and_images_are_added_and_subtracted(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    made = embed(model, photos, tmp_path / "photos-store")
    texts = encode_texts(model, ["a red square", "a cat"]).numpy()
    image = encode_images(model, [photos / "blue1.png"])[0].numpy()[0]
    query = texts[0] + image - texts[1]
    query = query / np.linalg.norm(query)
    hits = made.search(["a red square", photos / "blue1.png"], k=5, minus="a cat", model=model)
    assert [hit.row for hit in hits] == expected(made, query, list(range(18)), 5)
    for plus, minus, sentence in (
        ("a cat", "a cat", "nothing is left"),
        ([], "a cat", "the query is empty"),
    ):
        with pytest.raises(StoreError, match=sentence):
            made.search(plus, minus=minus, model=model)


def test_questions_that_cannot_be_asked(store: EmbeddingStore) -> None:
    query = unit(1, 6)[0]
    with pytest.raises(StoreError, match="no column 'lable' to filter by; did you mean 'label'"):
        store.search(query, filter={"lable": "cat"})
    with pytest.raises(StoreError, match="the filter cannot be used"):
        store.search(query, filter=pc.field("colour") == "red")
    with pytest.raises(StoreError, match="no index of all rows: run `clipkit store index"):
        store.search(query, index=True)
    with pytest.raises(StoreError, match="knows no filter"):
        store.search(query, filter={"label": "cat"}, index=True)
    store.info.normalised = False
    with pytest.raises(StoreError, match="no cosines"):
        store.search(query)


def test_a_large_store_is_searched_by_its_index(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.build_index()
    assert store.choose_index() is None
    assert store.choose_index(index=True) is not None
    monkeypatch.setattr(searchable, "EXACT_ROWS", 29)
    chosen = store.choose_index()
    assert chosen is not None
    assert chosen.info.rows == 30
    assert store.choose_index(index=False) is None
    assert store.choose_index(kind="text") is None
    assert store.choose_index(filter={"label": "cat"}) is None
    query = unit(1, 6, seed=5)[0]
    assert store.search(query, k=5) == store.search(query, k=5, index=False)


def test_rows_at_places(store: EmbeddingStore) -> None:
    found = store.rows_at([29, 0, 8, 7, 0], ["id", "year"])
    assert found == [{"id": str(row), "year": 2000 + row} for row in (29, 0, 8, 7, 0)]
    assert "embedding" not in store.rows_at([3])[0]
    assert store.rows_at([]) == []
    for row in (30, -1):
        with pytest.raises(StoreError, match="has rows 0 to 29"):
            store.rows_at([row])
