import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipkit.classify.images import as_samples
from clipkit.data import load_data
from clipkit.errors import DataError
from tests.conftest import square


def test_names_of_many_kinds(photos: Path, classes: Path) -> None:
    one = str(photos / "red0.png")
    assert [s.id for s in as_samples(one)] == [one]
    assert len(list(as_samples(photos))) == 18
    assert next(as_samples(str(photos))).id == f"{photos}/black0.png"
    assert len(list(as_samples(f"{photos}/red*"))) == 3
    assert len(list(as_samples(f"{classes.parent}/**/*.png"))) == 30
    assert [s.id for s in as_samples("skimage_photos")][:2] == ["astronaut.png", "brick.png"]


def test_pictures_in_memory(photos: Path) -> None:
    image = square("red")
    array = np.asarray(image)
    assert [s.image for s in as_samples(image)] == [image]
    assert [s.id for s in as_samples(array)] == ["image 0"]
    assert [s.id for s in as_samples(array[:, :, :2])] == ["image 0"]  # grey and alpha
    assert len(list(as_samples(np.stack([array[:, :, 0]] * 5)))) == 5
    mixed = [image, array, photos / "red0.png", str(photos / "red1.png"), b"bytes", None]
    samples = list(as_samples(mixed[:-1]))
    assert [s.id for s in samples][:2] == ["image 0", "image 1"]
    assert samples[3].image == photos / "red1.png"
    data = load_data(photos)
    assert list(as_samples(data)) == list(data)
    assert list(as_samples(iter(data))) == list(data)


def test_what_is_no_image() -> None:
    for images, word in (
        (3, "neither an image nor a list"),
        ([3], "image 0 is a int"),
        (np.array(3), "ndarray is neither an image nor a list"),
        (torch.tensor(3), "Tensor is neither an image nor a list"),
        (io.BytesIO(b"one line\n"), "BytesIO is neither an image nor a list"),
        (pd.DataFrame({"image": ["a.jpg"]}), "DataFrame is neither an image nor a list"),
        (np.zeros((3, 8, 9), np.uint8), r"\[3, 8, 9\] is one picture whose channels .* 3 grey"),
        (np.zeros((4, 4, 3)), "float64"),
        ([np.zeros((2, 4, 4, 3), np.uint8)], r"uint8 \[2, 4, 4, 3\]"),
        ("/no/such/*.jpg", "no images match"),
        ("/no/such", "neither a file or folder"),
    ):
        with pytest.raises(DataError, match=word):
            list(as_samples(images))
