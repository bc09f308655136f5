from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipkit.embed import from_npy
from clipkit.embed.export import embed
from clipkit.embed.from_npy import read_npy
from clipkit.embed.to_npy import write_npy
from clipkit.errors import ModelError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from tests.embed.made_stores import unit

Make = Callable[..., DualEncoder]


def write_folder(folder: Path, rows: list[int], *, texts: bool = False) -> np.ndarray:
    """Write what clip-retrieval writes, of files with so many rows."""
    all_rows = unit(2 * sum(rows), 16).astype(np.float16)
    images, captions = all_rows[: sum(rows)], all_rows[sum(rows) :]
    for name in ("img_emb", "metadata", *(["text_emb"] if texts else [])):
        (folder / name).mkdir(parents=True)
    start = 0
    for number, count in enumerate(rows):
        part = slice(start, start + count)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", images[part])
        columns = {"image_path": [f"{row}.jpg" for row in range(start, start + count)]}
        if texts:
            np.save(folder / "text_emb" / f"text_emb_{number}.npy", captions[part])
            columns["caption"] = [f"caption {row}" for row in range(start, start + count)]
        frame = pd.DataFrame({**columns, "width": range(start, start + count)})
        frame.to_parquet(folder / "metadata" / f"metadata_{number}.parquet")
        start += count
    return images if not texts else np.stack([images, captions], axis=1).reshape(-1, 16)


@pytest.mark.parametrize("texts", [False, True])
def test_rows_keep_their_order_across_many_files(
    model: DualEncoder, tmp_path: Path, texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_npy, "SHARD_ROWS", 2)
    counts = [3, 1, *[2] * 10]  # img_emb_10 comes after img_emb_9
    expected = write_folder(tmp_path / "npy", counts, texts=texts)
    store = read_npy(tmp_path / "npy", tmp_path / "store", model)
    np.testing.assert_array_equal(store.embeddings(), expected.astype(np.float32))
    assert store.verify() == []
    assert store.info.what == ("both" if texts else "images")
    row = store.rows_at([2 if texts else 1])[0]
    assert (row["id"], row["path"], row["width"]) == ("1.jpg", "1.jpg", 1)
    hit = store.search(expected[-1].astype(np.float32), k=1)[0]
    assert (hit.id, hit.row) == ("23.jpg" if sum(counts) == 24 else "", len(expected) - 1)
    assert store.search("a red square", k=1, model=model)


def test_out_and_in_again_is_the_same(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    (photos / "red0.txt").write_text("a red square\na photo of a red square\n")
    first = embed(model, photos, tmp_path / "store", what="both", shard_rows=5, dtype="float16")
    assert write_npy(first, tmp_path / "npy").left_out == []
    again = read_npy(tmp_path / "npy", tmp_path / "again", model)
    assert again.ids() == first.ids()
    np.testing.assert_array_equal(again.embeddings(), first.embeddings())
    rows = range(len(first))
    for mine, theirs in zip(again.rows_at(rows), first.rows_at(rows), strict=True):
        if theirs["kind"] == "image":  # whose caption is that of the first row
            theirs["caption"] = theirs["caption"] or mine["caption"]
        del theirs["sha256"]  # such a folder does not tell it
        assert mine == theirs
    assert again.verify() == []


def test_lengths_are_checked(model: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "npy"
    expected = write_folder(folder, [4])
    path = folder / "img_emb" / "img_emb_0.npy"
    longer = expected * np.array([1, 1, 3, 1], np.float16)[:, None]
    np.save(path, longer)
    with pytest.raises(StoreError, match=r"img_emb_0\.npy: row 2 has length 3\.000"):
        read_npy(folder, tmp_path / "a", model)
    store = read_npy(folder, tmp_path / "b", model, normalise=True)
    np.testing.assert_allclose(store.embeddings(), expected, atol=2e-3)
    for value in (np.nan, np.inf):
        longer[1, 3] = value
        np.save(path, longer)
        with pytest.raises(StoreError, match="row 1 is zero or not finite"):
            read_npy(folder, tmp_path / f"c{value}", model, normalise=True)


def test_folders_that_cannot_be_used(model: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "npy"
    with pytest.raises(StoreError, match="has neither img_emb"):
        read_npy(tmp_path, tmp_path / "out", model)
    write_folder(folder, [4, 3])
    with pytest.raises(StoreError, match="is there already"):
        read_npy(folder, folder, model)
    with pytest.raises(ModelError, match="did you mean 'starter'"):
        read_npy(folder, tmp_path / "out", "startr")
    np.save(folder / "img_emb" / "img_emb_1.npy", np.zeros((5, 16), np.float16))
    with pytest.raises(StoreError, match=r"rows differ: 5 in img_emb_1\.npy, 3 in metadata_1"):
        read_npy(folder, tmp_path / "out", model)
    np.save(folder / "img_emb" / "img_emb_1.npy", np.zeros((3, 8), np.float16))
    with pytest.raises(StoreError, match="8 x float16 and 16 x float16"):
        read_npy(folder, tmp_path / "out", model)
    np.save(folder / "img_emb" / "img_emb_1.npy", np.zeros((3, 16)))
    with pytest.raises(StoreError, match=r"is float64 \[3, 16\]"):
        read_npy(folder, tmp_path / "out", model)
    (folder / "img_emb" / "img_emb_1.npy").write_bytes(b"x")
    with pytest.raises(StoreError, match="npy"):
        read_npy(folder, tmp_path / "out", model)
    (folder / "img_emb" / "img_emb_1.npy").unlink()
    with pytest.raises(StoreError, match="do not belong together: 1 of image, 2 of metadata"):
        read_npy(folder, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_the_width_must_be_that_of_the_model(make_model: Make, tmp_path: Path) -> None:
    for name in ("img_emb", "metadata"):
        (tmp_path / "npy" / name).mkdir(parents=True)
    np.save(tmp_path / "npy" / "img_emb" / "img_emb_0.npy", unit(2, 8).astype(np.float32))
    frame = pd.DataFrame({"image_path": ["a.jpg", "b.jpg"]})
    frame.to_parquet(tmp_path / "npy" / "metadata" / "metadata_0.parquet")
    with pytest.raises(StoreError, match="have 8 numbers, those of model tiny 16"):
        read_npy(tmp_path / "npy", tmp_path / "out", make_model())


def test_a_store_that_was_read_in_can_be_embedded_anew(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    """Such a folder does not tell what its rows were made from, so that none is used again."""
    first = embed(model, photos, tmp_path / "store")
    write_npy(first, tmp_path / "npy")
    again = read_npy(tmp_path / "npy", tmp_path / "again", model)
    assert again.info.dtype == "float16"
    made = embed(model, photos, tmp_path / "again", dtype="float16")
    assert made.made is not None
    assert (made.made.encoded, made.made.reused) == (18, 0)
    assert made.verify() == []
    assert made.ids() == first.ids()
