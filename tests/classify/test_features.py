import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.features import iter_features
from clipkit.data import load_data
from clipkit.encode import encode_images
from clipkit.errors import DataError
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import square


def joined(model: DualEncoder, images: object) -> np.ndarray:
    return torch.cat([block.features for block in iter_features(model, images)]).numpy()


@pytest.fixture
def expected(model: DualEncoder, photos: Path) -> np.ndarray:
    return encode_images(model, sorted(photos.glob("*.png")))[0].numpy()


def kinds(photos: Path) -> dict[str, object]:
    """Hand over the same pictures in every way there is."""
    files = sorted(photos.glob("*.png"))
    pictures = [Image.open(file).convert("RGB") for file in files]
    arrays = [np.asarray(picture) for picture in pictures]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    rows = {"image": [str(file) for file in files], "label": ["x"] * len(files)}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    undecoded = table.cast_column("image", datasets.Image(decode=False))
    return {
        "folder": photos,
        "glob": f"{photos}/*.png",
        "names": [str(file) for file in files],
        "paths": files,
        "bytes": [file.read_bytes() for file in files],
        "pictures": pictures,
        "arrays": arrays,
        "array": np.stack(arrays),
        "tensors": tensors,
        "tensor": torch.stack(tensors),
        "shares": torch.stack(tensors).float() / 255,
        "column": table["image"],
        "undecoded column": undecoded["image"],
        "rows": table,
        "undecoded rows": undecoded,
        "data": load_data(photos),
        "samples": list(load_data(photos)),
        "generator": (picture for picture in pictures),
        "mixed": [files[0], arrays[1], pictures[2], tensors[3], *files[4:]],
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("folder", "glob", "names", "paths", "bytes", "pictures", "arrays", "array", "tensors"),
        *("tensor", "shares", "column", "undecoded column", "rows", "undecoded rows", "data"),
        *("samples", "generator", "mixed"),
    ],
)
def test_every_kind_of_images(
    model: DualEncoder, photos: Path, expected: np.ndarray, kind: str
) -> None:
    given = kinds(photos)
    assert len(given) == 19
    np.testing.assert_array_equal(joined(model, given[kind]), expected)


def test_features_that_are_there_already(model: DualEncoder, expected: np.ndarray) -> None:
    scaled = (3 * expected).astype(np.float16)
    scaled[1], scaled[2, 0] = 0, np.nan
    for given in (scaled, torch.from_numpy(scaled)):
        (block,) = iter_features(model, given)
        assert block.size == len(expected)
        assert block.places == [0, *range(3, len(expected))]
        assert [reject.id for reject in block.rejects] == ["row 1", "row 2"]
        np.testing.assert_allclose(block.features.numpy(), expected[block.places], atol=1e-3)
        assert block.features.dtype == torch.float32
    with pytest.raises(DataError, match=r"numbers \[5, 7\] .* the model's have 16 columns"):
        list(iter_features(model, np.zeros((5, 7))))
    classifier = ZeroShotClassifier(model, ["red", "blue"])
    assert [label is None for label in classifier.predict(scaled)[:4]] == [False, True, True, False]


def test_ten_thousand_generated_images_are_not_held(model: DualEncoder) -> None:
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def pictures() -> Iterator[Image.Image]:
        nonlocal alive, most
        for at in range(10_000):
            picture = Image.new("RGB", (33, 32), (at % 256, at // 256, 7))
            weakref.finalize(picture, gone)
            alive += 1
            most = max(most, alive)
            yield picture
            del picture

    told: list[tuple[int, int | None]] = []
    classifier = ZeroShotClassifier(model, ["red", "green", "blue"], batch_size=64)
    answers = classifier.predict(pictures(), progress=lambda *at: told.append(at))
    assert len(answers) == 10_000
    assert most <= 4 * 64
    assert told[-1] == (10_000, None)
    gc.collect()
    assert alive == 0


def test_the_answers_stay_in_order_and_those_that_fail_in_place(
    model: DualEncoder, corrupt: Path
) -> None:
    given = [corrupt / "red1.png", square("red"), b"no picture", corrupt / "gone.png"]
    blocks = list(iter_features(model, given, batch_size=3))
    assert [(block.size, block.places) for block in blocks] == [(3, [1]), (1, [])]
    assert [reject.id for block in blocks for reject in block.rejects] == [
        str(corrupt / "red1.png"),
        "image 2",
        str(corrupt / "gone.png"),
    ]
