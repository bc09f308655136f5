from pathlib import Path

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.encode import encode_images
from clipkit.errors import DataError
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample


def test_rows_are_those_of_the_data(model: DualEncoder, corrupt: Path) -> None:
    data = load_data(corrupt)
    bad = next(row for row, sample in enumerate(data) if sample.id == "red1.png")
    features, rows = DirectEncoder().images(model, data)
    assert rows == [row for row in range(len(data)) if row != bad]
    alone, _, _ = encode_images(model, [data[3].image])
    torch.testing.assert_close(features[rows.index(3)], alone[0])


def test_no_image_at_all_is_an_error(model: DualEncoder) -> None:
    data = Dataset("texts", [Sample("a", None, ("a cat",))])
    with pytest.raises(DataError, match="none of its 1 rows"):
        DirectEncoder().images(model, data)
