from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from clipkit.data import load_data
from clipkit.data.decode import NO_IMAGE
from clipkit.data.preprocess import load_pixels, normalize
from clipkit.encode import encode_images, encode_texts, inference, iter_image_features
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import ImageSource

TEXTS = ["a cat", "the red dog in the white square", "one", "a photo of a good picture", ""]


def test_texts_keep_their_order(model: DualEncoder) -> None:
    together = encode_texts(model, TEXTS, batch_size=2)
    with torch.inference_mode():
        alone = torch.cat([model.encode_text(model.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert encode_texts(model, []).shape == (0, model.dim)
    with pytest.raises(ConfigError, match="one string"):
        encode_texts(model, "a cat")


@pytest.mark.parametrize(("shortens", "batches"), [(True, [32, 32, 6]), (False, [64, 6])])
def test_texts_a_batch(
    model: DualEncoder, monkeypatch: pytest.MonkeyPatch, shortens: bool, batches: list[int]
) -> None:
    monkeypatch.setattr(model.text_tower, "shortens", shortens, raising=False)
    seen = []

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        seen.append(len(tokens["input_ids"]))
        return torch.zeros(seen[-1], model.dim)

    encode_texts(model, ["a cat"] * 70, encode=encode)
    assert seen == batches


@pytest.mark.parametrize(
    ("convolutions", "batches"), [(1, [32, 32, 6]), (5, [8] * 8 + [6])], ids=["vit", "convolutions"]
)
def test_images_a_batch(
    model: DualEncoder, monkeypatch: pytest.MonkeyPatch, convolutions: int, batches: list[int]
) -> None:
    layers = (nn.Conv2d(3, 3, 1) for _ in range(convolutions))
    monkeypatch.setattr(model, "image_tower", nn.Sequential(*layers))
    seen = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros(seen[-1], model.dim)

    encode_images(model, [Image.new("RGB", (8, 8))] * 70, encode=encode)
    assert seen == batches


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_images_equal_those_encoded_one_by_one(
    model: DualEncoder, photos: Path, batch_size: int | None
) -> None:
    images = [sample.image for sample in load_data(photos)][:6]
    features, kept, errors = encode_images(model, images, batch_size=batch_size)
    assert (kept, errors) == ([0, 1, 2, 3, 4, 5], [])
    for row, image in enumerate(images):
        assert image is not None
        pixels = torch.from_numpy(load_pixels(image, model.preprocessing))[None]
        with torch.inference_mode():
            alone = model.encode_image(normalize(pixels, model.preprocessing))
        torch.testing.assert_close(features[row], alone[0], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_is_told_in_its_place(model: DualEncoder, corrupt: Path) -> None:
    images = [
        corrupt / "red0.png",
        None,
        corrupt / "red1.png",
        corrupt / "gone.png",
        corrupt / "red2.png",
    ]
    features, kept, errors = encode_images(model, images, batch_size=2)
    assert kept == [0, 4]
    assert errors == [(1, NO_IMAGE), (2, "cannot identify image file"), (3, "file not found")]
    assert features.shape == (2, model.dim)
    starts = [batch.start for batch in iter_image_features(model, images, batch_size=2)]
    assert starts == [0, 2, 4]
    assert encode_images(model, [None])[0].shape == (0, model.dim)


def test_an_endless_generator_is_read_no_further_than_needed(
    model: DualEncoder, photos: Path
) -> None:
    taken = 0

    def endless() -> Iterator[ImageSource]:
        nonlocal taken
        while True:
            taken += 1
            yield photos / "red0.png"

    batches = iter_image_features(model, endless(), batch_size=4)
    next(batches)
    assert taken <= 12
    batches.close()  # type: ignore[attr-defined]


def test_a_tower_alone_and_the_mode_of_parts(
    make_model: Callable[..., DualEncoder], photos: Path
) -> None:
    model = make_model()
    model.train()
    model.text_tower.eval()
    features, _, _ = encode_images(model, [photos / "red0.png"], encode=model.image_tower)
    assert features.shape == (1, model.image_projection.linear.in_features)  # type: ignore[union-attr]
    texts = encode_texts(model, TEXTS, encode=model.text_tower)
    assert texts.shape == (5, 32)
    assert model.training
    assert model.image_tower.training
    assert not model.text_tower.training
    with inference(model):
        assert not model.image_tower.training


def test_progress_and_bad_sizes(model: DualEncoder, photos: Path) -> None:
    told: list[tuple[int, int | None]] = []
    images = [photos / "red0.png"] * 5
    encode_images(model, images, batch_size=2, progress=lambda done, of: told.append((done, of)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(ConfigError, match="batch_size"):
        encode_images(model, images, batch_size=0)
    with pytest.raises(ConfigError, match="workers"):
        encode_images(model, images, workers=0)
