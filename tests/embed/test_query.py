from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.query import Query, combine, encode_queries
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ImageError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import square


def test_kinds_of_queries_keep_their_order(model: DualEncoder, photos: Path) -> None:
    picture, embedding = square("red"), np.arange(1.0, 17.0)
    queries: list[Query] = ["a cat", photos / "blue1.png", embedding, "a dog", picture]
    found = encode_queries(queries, 16, lambda: model)
    texts = encode_texts(model, ["a cat", "a dog"]).numpy()
    images = encode_images(model, [photos / "blue1.png", picture])[0].numpy()
    unit = embedding / np.linalg.norm(embedding)
    expected = np.stack([texts[0], images[0], unit, texts[1], images[1]])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)


def test_embeddings_need_no_model() -> None:
    def never() -> DualEncoder:
        raise RuntimeError

    assert encode_queries([np.ones(4, np.float16)], 4, never).tolist() == [[0.5] * 4]
    assert encode_queries([], 4, never).shape == (0, 4)
    for query in (np.zeros(4), np.ones(3), np.full(4, np.nan), np.full(4, np.inf)):
        with pytest.raises(StoreError, match=r"is \[4\], finite and not zero"):
            encode_queries([query], 4, never)


def test_an_image_that_cannot_be_used(model: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png cannot be used: file not found"):
        encode_queries(["x", tmp_path / "gone.png"], 16, lambda: model)


def test_directions_are_added_and_subtracted() -> None:
    right, up = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(combine(np.concatenate([right, up]), right[:0]), [half, half])
    np.testing.assert_allclose(combine(right, up), [half, -half])
    with pytest.raises(StoreError, match="nothing is left"):
        combine(right, right)
