"""Rows that could not be decoded, over the loaders of a run."""

from pathlib import Path

from clipkit.data import load_data
from clipkit.data.loader import Loader
from clipkit.train.skips import Skips
from clipkit.types import Preprocessing, Reject

SMALL = Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)


def loader(folder: Path) -> Loader:
    return Loader(load_data(folder).samples, SMALL, batch_size=6, seed=0, workers=0)


def test_what_each_loader_rejects_is_kept(corrupt: Path) -> None:
    """Of the loader at work as soon as it finds it, of those before for ever."""
    skips, first = Skips(), loader(corrupt)
    skips.add([Reject("zebra", "found before")])
    skips.follow(first)
    assert [reject.id for reject in skips.rejects()] == ["zebra"]
    list(first.epoch())
    assert [reject.id for reject in skips.rejects()] == ["red1.png", "zebra"]
    (corrupt / "blue0.png").write_bytes(b"no picture either")
    second = loader(corrupt)
    skips.follow(second)
    list(second.epoch())
    skips.follow(loader(corrupt))
    assert [reject.id for reject in skips.rejects()] == ["blue0.png", "red1.png", "zebra"]
