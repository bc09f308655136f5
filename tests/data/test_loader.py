from pathlib import Path

import numpy as np
import pytest
import torch

from clipkit.data import load_data
from clipkit.data.loader import Batch, Loader, caption_choice, flip_choice, sample_order
from clipkit.data.preprocess import load_pixels
from clipkit.errors import ConfigError, DataError
from clipkit.types import Preprocessing, Sample

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def loader(photos: Path, **options: object) -> Loader:
    settings = {"batch_size": 4, "seed": 0, **options}
    return Loader(load_data(photos).samples, SMALL, **settings)  # type: ignore[arg-type]


def rows(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices for batch in batches]


def test_order_is_a_pure_permutation() -> None:
    first = sample_order(100, seed=3, epoch=5)
    np.testing.assert_array_equal(first, sample_order(100, seed=3, epoch=5))
    assert sorted(first.tolist()) == list(range(100))
    assert (first != sample_order(100, seed=3, epoch=6)).any()
    assert (first != sample_order(100, seed=4, epoch=5)).any()


def test_each_caption_gets_its_turn() -> None:
    counts = np.array([1, 2, 5])
    draws = np.stack([caption_choice(counts, seed=0, epoch=epoch) for epoch in range(300)])
    assert [sorted(set(draws[:, row].tolist())) for row in range(3)] == [[0], [0, 1], [*range(5)]]
    assert 60 <= flip_choice(140, seed=0, epoch=0).sum() <= 80


def test_batches_hold_the_pixels_of_their_rows(photos: Path) -> None:
    data = load_data(photos)
    batches = list(loader(photos).epoch())
    assert len(batches) == 4
    seen = [row for batch in batches for row in batch.indices]
    assert len(set(seen)) == 16
    for batch in batches:
        for at, row in enumerate(batch.indices):
            image = data[row].image
            assert image is not None
            np.testing.assert_array_equal(batch.pixels[at].numpy(), load_pixels(image, SMALL))


def test_it_goes_on_where_it_was(photos: Path) -> None:
    whole = loader(photos)
    expected = rows([*whole.epoch(), *whole.epoch()])
    assert whole.position == (2, 0)
    part = loader(photos)
    for _, _ in zip(range(2), part.epoch(), strict=False):
        position = part.position
    again = loader(photos, position=position)
    assert rows([*again.epoch(), *again.epoch()]) == expected[2:]


def test_two_processes_share_the_rows_of_one(photos: Path) -> None:
    whole = rows(list(loader(photos, batch_size=4).epoch()))
    halves = [
        rows(list(loader(photos, batch_size=2, process_index=i, process_count=2).epoch()))
        for i in range(2)
    ]
    for mine, first, second in zip(whole, *halves, strict=True):
        assert sorted(mine) == sorted(first + second)


def test_augmented_pixels_differ_by_epoch_and_not_by_run(photos: Path) -> None:
    first, second = loader(photos, augment=True), loader(photos, augment=True)
    a, b = list(first.epoch()), list(second.epoch())
    assert all(torch.equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True))
    plain = list(loader(photos).epoch())
    assert any((x.pixels != y.pixels).any() for x, y in zip(a, plain, strict=True))


def test_a_row_that_cannot_be_decoded_is_listed_and_others_stay(corrupt: Path) -> None:
    data = load_data(corrupt)
    bad = next(row for row, sample in enumerate(data) if sample.id == "red1.png")
    damaged = loader(corrupt)
    batches = rows([*damaged.epoch(), *damaged.epoch()])
    assert all(bad not in batch and len(batch) == 4 for batch in batches)
    assert [(r.id, r.reason) for r in damaged.rejects] == [
        ("red1.png", "cannot identify image file")
    ]
    order = [sample_order(18, seed=0, epoch=e)[:16].reshape(4, 4).tolist() for e in range(2)]
    for expected, batch in zip(order[0] + order[1], batches, strict=True):
        differ = [row for row, other in zip(expected, batch, strict=True) if row != other]
        assert differ in ([], [bad])


def test_nothing_to_load(tmp_path: Path, photos: Path) -> None:
    samples = [Sample(str(i), tmp_path / "gone.png") for i in range(4)]
    with pytest.raises(DataError, match="none of 4 rows"):
        list(Loader(samples, SMALL, batch_size=2, seed=0).epoch())
    with pytest.raises(ConfigError, match="19 rows make a batch and there are 18"):
        loader(photos, batch_size=19)
