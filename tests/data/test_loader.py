import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkit.data import load_data
from clipkit.data.hashing import stored_bytes
from clipkit.data.loader import Batch, Loader
from clipkit.data.order import batch_bounds, sample_order
from clipkit.data.preprocess import load_pixels
from clipkit.errors import ConfigError, DataError
from clipkit.types import ImageSource, Preprocessing, Sample

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def loader(photos: Path, **options: object) -> Loader:
    settings = {"batch_size": 4, "seed": 0, **options}
    return Loader(load_data(photos).samples, SMALL, **settings)  # type: ignore[arg-type]


def rows(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices for batch in batches]


def test_batches_hold_the_pixels_of_their_rows(photos: Path) -> None:
    data = load_data(photos)
    batches = list(loader(photos).epoch())
    assert [len(batch.indices) for batch in batches] == [3, 4, 3, 4, 4]
    seen = [row for batch in batches for row in batch.indices]
    assert sorted(seen) == list(range(18))
    for batch in batches:
        for at, row in enumerate(batch.indices):
            image = data[row].image
            assert image is not None
            np.testing.assert_array_equal(batch.pixels[at].numpy(), load_pixels(image, SMALL))
            assert batch.captions[at] == data[row].captions
            assert batch.keys[at] == data.image_keys()[row]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_and_workers_share_each_row_once(
    photos: Path, workers: int, processes: int, drop_last: bool
) -> None:
    settings = {"batch_size": 8, "drop_last": drop_last}
    whole = rows(list(loader(photos, **settings).epoch()))
    shares = [
        rows(
            list(
                loader(
                    photos,
                    workers=workers,
                    process_index=index,
                    process_count=processes,
                    **settings,
                ).epoch()
            )
        )
        for index in range(processes)
    ]
    for mine, *parts in zip(whole, *shares, strict=True):
        assert sorted(mine) == sorted(row for part in parts for row in part)
    seen = sorted(row for batch in whole for row in batch)
    assert seen == list(range(18)) if not drop_last else len(set(seen)) == 16


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 2)])
def test_it_goes_on_where_it_was(photos: Path, workers: int, index: int, count: int) -> None:
    settings = {
        "augment": True,
        "workers": workers,
        "process_index": index,
        "process_count": count,
    }
    whole = loader(photos, **settings)
    positions, expected = [whole.position], []
    for _ in range(2):
        for batch in whole.epoch():
            expected.append(batch)
            positions.append(whole.position)
    assert whole.position == (2, 0)
    for done, position in enumerate(positions[:-1]):
        again = loader(photos, position=position, **settings)
        rest = [*again.epoch(), *(again.epoch() if again.position[0] < 2 else [])]
        assert rows(rest) == rows(expected[done:])
        for batch, other in zip(rest, expected[done:], strict=True):
            assert torch.equal(batch.pixels, other.pixels)


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
    assert [(r.id, r.reason) for r in damaged.rejects] == [
        ("red1.png", "cannot identify image file")
    ]
    bounds = batch_bounds(18, 4, drop_last=False)
    for epoch in range(2):
        order = sample_order(18, seed=0, epoch=epoch).tolist()
        expected = [[row for row in order[a:b] if row != bad] for a, b in bounds]
        assert batches[5 * epoch : 5 * epoch + 5] == expected


def test_another_row_stands_in_for_a_batch_that_would_be_empty(corrupt: Path) -> None:
    data = load_data(corrupt)
    bad = next(row for row, sample in enumerate(data) if sample.id == "red1.png")
    batches = rows(list(loader(corrupt, batch_size=1).epoch()))
    order = sample_order(18, seed=0, epoch=0).tolist()
    place = order.index(bad)
    assert [row for batch in batches for row in batch] == [
        order[(place + 1) % 18] if row == bad else row for row in order
    ]


def test_some_of_the_rows(photos: Path) -> None:
    data = load_data(photos)
    some = loader(photos, rows=np.array([3, 5, 11]))
    batch = next(some.epoch())
    image = data[11].image
    assert image is not None
    pixels = batch.pixels[batch.indices.index(2)]
    np.testing.assert_array_equal(pixels.numpy(), load_pixels(image, SMALL))


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have the reading of one image hang, and the loader wait for it no longer than a second."""
    name, release = "white2.png", threading.Event()

    def reader(image: ImageSource) -> bytes:
        if isinstance(image, Path) and image.name == name:
            release.wait(60)
        return stored_bytes(image)

    monkeypatch.setattr("clipkit.data.loader.stored_bytes", reader)
    monkeypatch.setattr("clipkit.data.ahead.STALL_SECONDS", 1.0)
    yield name
    release.set()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_that_hangs_ends_the_epoch_with_its_name(
    photos: Path, hangs: str, workers: int
) -> None:
    data = load_data(photos)
    stuck = next(row for row, sample in enumerate(data) if sample.id == hangs)
    order = sample_order(18, seed=0, epoch=0).tolist()
    expected = [order[a:b] for a, b in batch_bounds(18, 4, drop_last=False)]
    before = next(at for at, part in enumerate(expected) if stuck in part)
    assert before > 0
    hanging, seen = loader(photos, workers=workers), []
    with pytest.raises(DataError, match=f"row '{hangs}' is not read after 1 seconds"):
        for batch in hanging.epoch():
            seen.append(batch)
    assert rows(seen) == expected[:before]
    assert hanging.position == (0, before)


def test_nothing_to_load(tmp_path: Path, photos: Path) -> None:
    samples = [Sample(str(i), tmp_path / "gone.png") for i in range(4)]
    with pytest.raises(DataError, match="none of 4 rows"):
        list(Loader(samples, SMALL, batch_size=2, seed=0).epoch())
    with pytest.raises(ConfigError, match="19 rows make a batch and there are 18"):
        loader(photos, batch_size=19, drop_last=True)
    with pytest.raises(ConfigError, match="batches of 3 rows cannot be shared by 4 processes"):
        loader(photos, process_count=4)
