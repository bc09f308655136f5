"""Batches of views: which rows, which views, over processes and from any position on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkit.data import load_data
from clipkit.data.dataset import label_key
from clipkit.data.decode import decode_image
from clipkit.data.order import view_generator
from clipkit.data.sources import Sources
from clipkit.data.views import SimClrViews
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.view_batches import ViewBatch, ViewBatches


def batches(model: DualEncoder, folder: Path, **options: int) -> ViewBatches:
    sources = Sources.of(load_data(folder))
    settings: dict[str, Any] = {"batch_size": 5, "seed": 3, **options}
    return ViewBatches(model, sources, SimClrViews(), **settings)


def test_each_row_has_two_views_an_epoch(model: DualEncoder, classes: Path) -> None:
    made = batches(model, classes)
    found = list(made.epoch(2))
    assert [len(batch) for batch in found] == [4, 4, 4]
    assert sorted(row for batch in found for row in batch.rows.tolist()) == list(range(12))
    sample = made.data[int(found[0].rows[1])]
    assert sample.image is not None
    image = decode_image(sample.image, near=2 * model.preprocessing.size)
    for number, views in enumerate((found[0].first, found[0].second)):
        rng = view_generator(int(found[0].rows[1]), view=number, seed=3, epoch=2)
        expected = SimClrViews()(image, model.preprocessing, rng)
        np.testing.assert_array_equal(views[1].numpy(), expected)
    assert found[0].labels[1] == label_key(sample.label)
    assert found[0].image_keys[1] == made.data.image_keys()[int(found[0].rows[1])]


def test_no_label_is_minus_one(model: DualEncoder, photos: Path) -> None:
    batch = next(iter(batches(model, photos).epoch(0)))
    assert batch.labels.tolist() == [-1] * len(batch)


def joined(parts: list[ViewBatch]) -> dict[int, torch.Tensor]:
    """Return the first view of each row."""
    rows = torch.cat([part.rows for part in parts])
    return dict(zip(rows.tolist(), torch.cat([part.first for part in parts]), strict=True))


def test_processes_share_a_batch(model: DualEncoder, classes: Path) -> None:
    whole = list(batches(model, classes).epoch(1))
    shares = [
        list(batches(model, classes, process_index=rank, process_count=2).epoch(1))
        for rank in (0, 1)
    ]
    for at, batch in enumerate(whole):
        one, other = joined([batch]), joined([shares[0][at], shares[1][at]])
        assert one.keys() == other.keys()
        assert all(torch.equal(one[row], other[row]) for row in one)


def test_parts_make_up_the_batch(model: DualEncoder, classes: Path) -> None:
    batch = next(iter(batches(model, classes).epoch(0, 1)))
    parts = batch.parts(3)
    assert [len(part.first) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.second for part in parts]), batch.second)
    assert len(batch.parts(None)) == 1


def test_what_cannot_be_read_is_skipped(model: DualEncoder, corrupt: Path) -> None:
    made = batches(model, corrupt, workers=0)
    rows = [row for batch in made.epoch(0) for row in batch.rows.tolist()]
    assert len(rows) == 17
    assert [reject.id for reject in made.skips.rejects()] == ["red1.png"]


def test_too_few_rows_are_refused(model: DualEncoder, classes: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (classes / "red" / "0.png").rename(tmp_path / "one" / "a.png")
    with pytest.raises(DataError, match="views need two rows with an image; it has 1"):
        batches(model, tmp_path / "one")
    with pytest.raises(ConfigError, match="too small for 3 processes"):
        batches(model, classes, process_count=3)
