"""What of a store stays, when the collection grew, shrank or changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipkit.data.hashing import stored_bytes
from clipkit.embed import loop
from clipkit.embed.export import embed
from clipkit.embed.prepare import shard_count, shard_range, units_of
from clipkit.embed.store import EmbeddingStore, Made
from clipkit.embed.work import UNIT
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import ImageSource
from tests.conftest import square
from tests.embed.stores import count_images, same_files

Make = Callable[..., DualEncoder]
OPTIONS: dict[str, Any] = {"shard_rows": 5, "batch_size": 2}


def change(folder: Path) -> None:
    """Add two pictures, change one, remove one, rename one and touch all: 3 are to be encoded."""
    square("red", 90).save(folder / "aaa.png")
    square("red", 91).save(folder / "zzz.png")
    square("red", 92).save(folder / "green1.png")
    (folder / "blue1.png").unlink()
    (folder / "white0.png").rename(folder / "b.png")
    for path in folder.glob("*.png"):
        os.utime(path)


def test_units_are_pieces_of_shards() -> None:
    assert shard_count(25_000, 10_000) == 3
    there = shard_range(2, 25_000, 10_000)
    assert there == range(20_000, 25_000)
    units = units_of(there)
    assert [place for unit in units for place in unit] == list(there)
    assert {len(unit) for unit in units[:-1]} == {UNIT}


@pytest.mark.parametrize("what", ["images", "both"])
def test_a_changed_collection(
    model: DualEncoder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """What is new is encoded, what was there is copied, and the order is that of the input."""
    before = embed(model, photos, tmp_path / "store", **OPTIONS, what=what)
    old = dict(zip(before.ids(), before.embeddings(), strict=True))
    change(photos)
    (photos / "yellow0.txt").write_text("a good yellow square\n")
    expected = embed(model, photos, tmp_path / "fresh", **OPTIONS, what=what)
    images = count_images(model, monkeypatch)
    after = embed(model, photos, tmp_path / "store", **OPTIONS, what=what)
    assert sum(images) == 3
    texts = 1 if what == "both" else 0
    assert after.made == Made(
        encoded=3 + texts, reused=len(after) - 3 - texts, removed=2 * (1 + (what == "both"))
    )
    assert after.ids() == expected.ids()
    np.testing.assert_allclose(after.embeddings(), expected.embeddings(), rtol=0, atol=1e-5)
    assert after.info.data == expected.info.data
    assert after.verify() == []
    if what == "images":
        kept = [id_ for id_ in after.ids() if id_ in old and id_ != "green1.png"]
        new = dict(zip(after.ids(), after.embeddings(), strict=True))
        assert all(np.array_equal(new[id_], old[id_]) for id_ in kept)
    there = {path.name for path in (tmp_path / "store").iterdir()}
    named = {shard.file for shard in after.info.shards} | {after.info.rejects, "store.json"}
    assert there == named


def test_a_grown_collection_keeps_its_shards_unread(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(model, photos, tmp_path / "store", **OPTIONS)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard*")}
    square("red", 90).save(photos / "zzz.png")
    files: list[ImageSource] = []

    def read(image: ImageSource) -> bytes:
        files.append(image)
        return stored_bytes(image)

    monkeypatch.setattr("clipkit.embed.stream.stored_bytes", read)
    images = count_images(model, monkeypatch)
    store = embed(model, photos, tmp_path / "store", **OPTIONS)
    assert sum(images) == 1
    assert store.made == Made(encoded=1, reused=18)
    assert [shard.file for shard in store.info.shards][3] == "shard-00003-2.parquet"
    assert store.verify() == []
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard*")}
    assert len(before.items() & after.items()) == 3
    assert len(files) == 4  # those of the last shard


def test_a_touched_collection_is_read_but_not_written(
    model: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(model, corrupt, tmp_path / "store", **OPTIONS)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "store").glob("*.parquet")}
    for path in corrupt.glob("*.png"):
        os.utime(path)
    images = count_images(model, monkeypatch)
    store = embed(model, corrupt, tmp_path / "store", **OPTIONS)
    assert not images
    assert store.made == Made(reused=17)
    assert store.verify() == []
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "store").glob("*.parquet")}
    assert before == after
    monkeypatch.setattr("clipkit.embed.stream.stored_bytes", None)
    embed(model, corrupt, tmp_path / "store", **OPTIONS)


def test_only_captions_or_labels_changed(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image is encoded for that, but the columns are those of now."""
    embed(model, photos, tmp_path / "store", **OPTIONS)
    (photos / "red0.txt").write_text("a red one")
    images = count_images(model, monkeypatch)
    store = embed(model, photos, tmp_path / "store", **OPTIONS)
    assert not images
    read = pd.concat([pd.read_parquet(store.path / s.file) for s in store.info.shards])
    assert read.set_index("id")["caption"]["red0.png"] == "a red one"
    assert store.made == Made(reused=18)


def test_metadata_that_is_new_makes_new_columns(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in photos.glob("*.png"))
    table = photos / "table.csv"
    pd.DataFrame({"image": names}).to_csv(table, index=False)
    embed(model, table, tmp_path / "store", **OPTIONS)
    pd.DataFrame({"image": names, "year": names}).to_csv(table, index=False)
    images = count_images(model, monkeypatch)
    store = embed(model, table, tmp_path / "store", **OPTIONS)
    assert not images
    read = pd.concat([pd.read_parquet(store.path / s.file) for s in store.info.shards])
    assert list(read["year"]) == names


@pytest.mark.parametrize("stop_after", [1, 7, 13, 19])
@pytest.mark.parametrize("again", [False, True])
def test_killed_in_the_middle_of_a_change(
    model: DualEncoder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    again: bool,
) -> None:
    """The store is the old one until the new one is whole; also where all changes once more."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    for name in ("store", "other"):
        embed(model, photos, tmp_path / name, **OPTIONS)
    before = EmbeddingStore(tmp_path / "store").embeddings()
    change(photos)
    if not again:
        embed(model, photos, tmp_path / "other", **OPTIONS)

    def killed(done: int, total: int | None) -> None:
        if done >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(model, photos, tmp_path / "store", **OPTIONS, progress=killed)
    old = EmbeddingStore(tmp_path / "store")
    assert old.verify() == []
    np.testing.assert_array_equal(old.embeddings(), before)
    if again:
        square("blue", 93).save(photos / "blue0.png")
    images = count_images(model, monkeypatch)
    store = embed(model, photos, tmp_path / "store", **OPTIONS)
    assert store.verify() == []
    assert sum(images) <= 3 + again
    if again:
        fresh = embed(model, photos, tmp_path / "fresh", **OPTIONS)
        assert store.ids() == fresh.ids()
        np.testing.assert_allclose(store.embeddings(), fresh.embeddings(), rtol=0, atol=1e-5)
    else:
        same_files(tmp_path / "store", tmp_path / "other")


def test_a_collection_that_changes_before_its_store_is_finished(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(done: int, total: int | None) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(model, photos, tmp_path / "store", **OPTIONS, progress=killed)
    change(photos)
    images = count_images(model, monkeypatch)
    store = embed(model, photos, tmp_path / "store", **OPTIONS)
    assert sum(images) <= 18 - 9 + 3
    fresh = embed(model, photos, tmp_path / "fresh", **OPTIONS)
    assert store.ids() == fresh.ids()
    np.testing.assert_allclose(store.embeddings(), fresh.embeddings(), rtol=0, atol=1e-5)
    assert store.verify() == []


def test_a_collection_that_shrank(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    embed(model, photos, tmp_path / "store", **OPTIONS)
    for path in photos.glob("[r-z]*.png"):
        path.unlink()
    store = embed(model, photos, tmp_path / "store", **OPTIONS)
    assert store.made == Made(reused=9, removed=9)
    assert [shard.rows for shard in store.info.shards] == [5, 4]
    assert store.verify() == []


def test_a_damaged_list_of_rejects(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    store = embed(model, corrupt, tmp_path / "store", **OPTIONS)
    (store.path / "rejects.parquet").write_bytes(b"x")
    assert "rejects.parquet lists 0 rows, not the 1" in EmbeddingStore(store.path).verify()[-1]
    again = embed(model, corrupt, tmp_path / "store", **OPTIONS)
    assert again.verify() == []
    assert [reject.id for reject in again.rejects()] == ["red1.png"]
    assert again.made == Made(reused=17)
