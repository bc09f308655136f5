from pathlib import Path

import numpy as np
import pytest

from clipkit.embed import vectors
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.vectors import Vectors, find_vectors, write_vectors
from clipkit.errors import StoreError
from tests.embed.made_stores import make_store, unit


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_file_gives_what_the_array_gives(tmp_path: Path, dtype: str) -> None:
    rows = unit(30, 5).astype(dtype)
    path = tmp_path / "a" / "rows.npy"
    write_vectors(path, [rows[:7], rows[7:7], rows[7:]], 30, 5, dtype)
    np.testing.assert_array_equal(np.load(path), rows)
    for source in (path, rows):
        found = Vectors(source, 30, 5, dtype)
        blocks = [(start, block.numpy().copy()) for start, block in found.blocks(8)]
        assert [start for start, _ in blocks] == [0, 8, 16, 24]
        together = np.concatenate([block for _, block in blocks])
        assert together.dtype == np.float32
        np.testing.assert_array_equal(together, rows.astype(np.float32))
        np.testing.assert_array_equal(found.take([29, 0, 7, 7]), rows[[29, 0, 7, 7]])
        keep = np.zeros(30, bool)
        keep[17] = True
        assert [start for start, _ in found.blocks(8, keep=keep)] == [16]
        assert [(at, len(part)) for at, part in found.blocks(8, start=18)] == [(18, 8), (26, 4)]
        assert [(at, len(part)) for at, part in found.blocks(8, start=1, stop=4)] == [(1, 3)]


def test_the_file_is_made_once_and_follows_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "IN_MEMORY", 0)
    store = make_store(tmp_path / "store", unit(20, 4), shard_rows=6)
    np.testing.assert_array_equal(store.vectors().take(range(20)), store.embeddings())
    (made,) = (store.path / "search").iterdir()
    before = made.stat().st_mtime_ns
    again = EmbeddingStore(store.path)
    monkeypatch.setattr(vectors, "write_vectors", None)
    assert len(again.vectors()) == 20
    assert made.stat().st_mtime_ns == before
    monkeypatch.undo()
    monkeypatch.setattr(vectors, "IN_MEMORY", 0)
    other = make_store(tmp_path / "other", unit(20, 4, seed=1), shard_rows=6)
    for file in other.path.iterdir():
        file.replace(store.path / file.name)
    changed = EmbeddingStore(store.path)
    np.testing.assert_array_equal(changed.vectors().take([3]), unit(20, 4, 1)[[3]].astype("f4"))
    (left,) = (store.path / "search").iterdir()
    assert left.name != made.name


def test_a_locked_folder_has_its_file_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "IN_MEMORY", 0)
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    store = make_store(tmp_path / "store", unit(20, 4))
    write = vectors.write_vectors

    def locked(path: Path, *rest: object) -> None:
        if path.is_relative_to(store.path):
            raise PermissionError(13, "Permission denied")
        write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(vectors, "write_vectors", locked)
    np.testing.assert_array_equal(store.vectors().take(range(20)), store.embeddings())
    assert len(list((tmp_path / "cache" / "search").iterdir())) == 1


def test_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(9, 4).astype(np.float32)
    with pytest.raises(StoreError, match="9 rows in the shards, 10 told"):
        write_vectors(tmp_path / "a" / "b.npy", [rows], 10, 4, "float32")
    assert not list((tmp_path / "a").iterdir())
    for limit in (0, 1 << 20):
        monkeypatch.setattr(vectors, "IN_MEMORY", limit)
        with pytest.raises(StoreError, match="rows"):
            find_vectors(tmp_path, "sha256:0", lambda: [rows], rows=8, dim=4, dtype="float32")
    write_vectors(tmp_path / "c.npy", [rows], 9, 4, "float32")
    short = Vectors(tmp_path / "c.npy", 12, 4, "float32")
    with pytest.raises(StoreError, match="ends too early"):
        short.take([11])
    with pytest.raises(StoreError, match="cannot be read"):
        Vectors(tmp_path / "gone.npy", 1, 4, "float32").take([0])
