from pathlib import Path

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.encode import encode_images
from clipkit.errors import DataError, RejectedError
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample


def test_rows_are_those_of_the_data(model: DualEncoder, corrupt: Path) -> None:
    data = load_data(corrupt)
    bad = next(row for row, sample in enumerate(data) if sample.id == "red1.png")
    features, rows = DirectEncoder(max_rejected=0.1).images(model, data)
    assert rows == [row for row in range(len(data)) if row != bad]
    alone, _, _ = encode_images(model, [data[3].image])
    torch.testing.assert_close(features[rows.index(3)], alone[0])


def test_no_image_at_all_is_an_error(model: DualEncoder) -> None:
    data = Dataset("texts", [Sample("a", None, ("a cat",))])
    with pytest.raises(DataError, match="none of its 1 rows"):
        DirectEncoder().images(model, data)


def test_rejects_are_listed_and_limited(model: DualEncoder, corrupt: Path) -> None:
    (corrupt / "red2.png").write_bytes(b"")
    data = load_data(corrupt)
    encoder = DirectEncoder()
    with pytest.raises(RejectedError, match="2 rows rejected"):
        encoder.images(model, data)
    assert [(r.id, r.where) for r in encoder.rejects.values()] == [
        ("red1.png", "photos"),
        ("red2.png", "photos"),
    ]


def test_features_are_kept_for_the_same_data_and_model(
    model: DualEncoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, told = load_data(photos), []
    encoder = DirectEncoder(keep=True, report=lambda *what: told.append(what))
    first, _ = encoder.images(model, data)
    told.clear()
    again, _ = encoder.images(model, data)
    assert again is first
    assert not told
    encoder.images(model, load_data(photos))
    assert told[-1] == ("images of photos", 18, 18)


def test_features_of_several_data_sets_are_kept(model: DualEncoder, photos: Path) -> None:
    sets, told = [load_data(photos) for _ in range(4)], []
    encoder = DirectEncoder(keep=True, report=lambda *what: told.append(what))
    for data in (*sets[:3], sets[0], sets[2], sets[1]):
        encoder.images(model, data)
    assert sum(done == 18 for _, done, _ in told) == 3
    encoder.images(model, sets[3])  # in place of the one used longest ago
    told.clear()
    encoder.images(model, sets[1])
    assert not told
    encoder.images(model, sets[0])
    assert told
