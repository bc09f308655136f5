import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.encode import encode_texts
from clipkit.errors import ImageError, StoreError
from clipkit.models.dual_encoder import DualEncoder

Make = Callable[..., DualEncoder]


@pytest.fixture
def store(model: DualEncoder, photos: Path, tmp_path: Path) -> EmbeddingStore:
    model.save(str(tmp_path / "model"))
    from clipkit.models import load

    return embed(load(tmp_path / "model"), photos, tmp_path / "store", what="both", shard_rows=5)


def test_search_by_text_loads_the_model_that_made_it(
    store: EmbeddingStore, model: DualEncoder
) -> None:
    hits = EmbeddingStore(store.path).search("a red square", k=5)
    query = encode_texts(model, ["a red square"])[0].numpy()
    scores = store.embeddings() @ query
    np.testing.assert_allclose([h.score for h in hits], np.sort(scores)[::-1][:5], rtol=1e-4)
    assert all(hit.kind == "image" for hit in store.search("a red square", k=3, kind="image"))


def test_an_image_finds_itself(store: EmbeddingStore, photos: Path) -> None:
    best = store.search(photos / "blue1.png", k=1)[0]
    assert (best.id, best.kind, best.caption) == ("blue1.png", "image", "a photo of a blue square")
    assert best.score == pytest.approx(1.0, abs=1e-4)
    assert best.path == str(photos / "blue1.png")
    same = store.search(store.embeddings()[4] * 7, k=1)[0]
    assert same.score == pytest.approx(1.0, abs=1e-4)


def test_another_model_is_refused(store: EmbeddingStore, make_model: Make) -> None:
    with pytest.raises(StoreError, match="was not made with model tiny"):
        store.search("a cat", model=make_model(5))
    assert store.search("a cat", k=1, model=make_model(0))


def test_queries_that_do_not_fit(store: EmbeddingStore, tmp_path: Path) -> None:
    for query in (np.zeros(16, np.float32), np.ones(3, np.float32)):
        with pytest.raises(StoreError, match=r"\[16\]"):
            store.search(query)
    with pytest.raises(StoreError, match="k must be"):
        store.search("a cat", k=0)
    with pytest.raises(StoreError, match="kind"):
        store.search("a cat", kind="video")
    with pytest.raises(ImageError, match="file not found"):
        store.search(tmp_path / "gone.png")


def test_the_model_is_gone(store: EmbeddingStore, tmp_path: Path) -> None:
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="cannot be loaded"):
        EmbeddingStore(store.path).search("a cat")


def test_what_is_no_store(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store\.json"):
        EmbeddingStore(tmp_path)
    info = store.path / "store.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(StoreError, match="format 9"):
        EmbeddingStore(store.path)
    info.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        EmbeddingStore(store.path)


def test_verify_names_what_is_wrong(store: EmbeddingStore) -> None:
    (store.path / "shard-00002.parquet").unlink()
    assert store.verify() == ["shard-00002.parquet is missing"]
    with pytest.raises(StoreError, match="cannot be read"):
        store.embeddings()
    assert "rows=36" in repr(store)
