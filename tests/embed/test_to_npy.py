import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipkit.embed.store import EmbeddingStore
from clipkit.embed.to_npy import write_npy
from clipkit.errors import StoreError
from tests.embed.made_stores import make_store, unit

# An image with two captions, one with none, a caption of a rejected image, one pair, a last image.
IDS = ["a", "a", "a", "b", "gone", "c", "c", "d"]
KINDS = ["image", "text", "text", "image", "text", "image", "text", "image"]
PATHS = [f"/photos/{id}.jpg" for id in IDS]


def both(folder: Path, shard_rows: int) -> EmbeddingStore:
    columns: dict[str, Sequence[Any]] = {"path": PATHS, "year": list(range(8))}
    return make_store(
        folder,
        unit(8, 4),
        kinds=KINDS,
        ids=IDS,
        what="both",
        shard_rows=shard_rows,
        columns=columns,
    )


def read(folder: Path, name: str) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted((folder / name).glob("*.npy"))])


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 8])
def test_captions_stand_beside_their_images(tmp_path: Path, shard_rows: int) -> None:
    store = both(tmp_path / "store", shard_rows)
    written = write_npy(store, tmp_path / "out")
    rounded = unit(8, 4).astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(read(tmp_path / "out", "img_emb"), rounded[[0, 0, 5]])
    np.testing.assert_array_equal(read(tmp_path / "out", "text_emb"), rounded[[1, 2, 6]])
    frame = pd.read_parquet(tmp_path / "out" / "metadata")
    assert list(frame["image_path"]) == ["/photos/a.jpg", "/photos/a.jpg", "/photos/c.jpg"]
    assert list(frame["caption"]) == ["row 1", "row 2", "row 6"]
    assert list(frame["year"]) == [0, 0, 5]
    lines = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    left = [json.loads(line) for line in lines]
    assert {(row["id"], row["reason"]) for row in left} == {
        ("b", "image without a caption"),
        ("gone", "caption without an image"),
        ("d", "image without a caption"),
    }
    assert (written.rows, len(written.left_out)) == (3, 3)
    # Each row of the store is in a file, or listed: three captions, two images, three rejects.
    assert written.rows + len(set(frame["image_path"])) + len(written.left_out) == len(store)


def test_images_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", unit(25, 4), shard_rows=2, dtype="float16")
    written = write_npy(store, tmp_path / "out")
    assert (written.rows, written.files, written.left_out) == (25, 13, [])
    names = sorted(path.name for path in (tmp_path / "out" / "img_emb").iterdir())
    assert (names[0], names[-1]) == ("img_emb_00.npy", "img_emb_12.npy")
    np.testing.assert_array_equal(read(tmp_path / "out", "img_emb"), store.embeddings())
    assert not (tmp_path / "out" / "text_emb").exists()
    with pytest.raises(StoreError, match="is there already"):
        write_npy(store, tmp_path / "out")


@pytest.mark.slow
def test_embedding_reader_opens_it(tmp_path: Path) -> None:
    there = tmp_path / "packages"
    reader = ["fsspec", "tqdm", "embedding_reader"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(there)]
    subprocess.run([*pip, *reader], check=True, capture_output=True)
    store = both(tmp_path / "store", 3)
    write_npy(store, tmp_path / "out")
    code = """if True:
        import json, sys
        sys.path.insert(0, sys.argv[1])
        from embedding_reader import EmbeddingReader
        out = sys.argv[2]
        reader = EmbeddingReader(out + "/img_emb", file_format="parquet_npy",
            metadata_folder=out + "/metadata", meta_columns=["image_path", "caption"])
        rows, told = [], []
        for batch, meta in reader(batch_size=2, show_progress=False):
            rows += batch.tolist()
            told += meta[["image_path", "caption"]].values.tolist()
        texts = EmbeddingReader(out + "/text_emb", file_format="npy")
        print(json.dumps([reader.dimension, int(texts.count), rows, told]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(there), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dim, texts, rows, told = json.loads(done.stdout)
    assert (dim, texts) == (4, 3)
    np.testing.assert_allclose(rows, unit(8, 4)[[0, 0, 5]], atol=1e-3)
    assert told == [
        ["/photos/a.jpg", "row 1"],
        ["/photos/a.jpg", "row 2"],
        ["/photos/c.jpg", "row 6"],
    ]
