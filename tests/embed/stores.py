"""What the tests of writing a store share."""

from pathlib import Path

import pytest
from torch import Tensor

from clipkit.models.dual_encoder import DualEncoder


def count_images(model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each batch of images that a model encodes from now on."""
    counts: list[int] = []
    encode = model.encode_image

    def counted(images: Tensor) -> Tensor:
        counts.append(len(images))
        return encode(images)

    monkeypatch.setattr(model, "encode_image", counted)
    return counts


def same_files(first: Path, second: Path) -> None:
    """Fail unless two stores have the same files, byte for byte."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
