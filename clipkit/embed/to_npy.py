"""A store as a folder of npy files and metadata, which clip-retrieval and its kin read.

img_emb/img_emb_0.npy        float16, a row for each picture, or for each picture with a caption
text_emb/text_emb_0.npy      float16, the caption of the same row
metadata/metadata_0.parquet  image_path, caption and the store's other columns, row by row
rejects.jsonl                rows of the store that have no partner, and so no row here
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.data.rejects import Rejects
from clipkit.embed.pairs import Pairs
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.tables import check_empty
from clipkit.embed.vectors import stored_matrix
from clipkit.types import Progress, Reject

FOLDERS = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Written:
    """What such a folder got.

    Attributes:
        rows: rows of each kind of file.
        files: files of each kind.
        left_out: rows of the store that have none.
    """

    rows: int
    files: int
    left_out: list[Reject]


def write_npy(
    store: EmbeddingStore, out: str | Path, *, progress: Progress | None = None
) -> Written:
    """Write a store as such a folder, in float16; one shard is in memory at a time.

    In a store of images and captions each caption gives a row, with the embedding of its image in
    the other file. An image without captions, or a caption whose image could not be used, has no
    row and is listed.

    Args:
        store: of images, of captions or of both.
        out: a folder, absent or empty.
        progress: told how many rows are done, and of how many.

    Raises:
        StoreError: the folder holds something, or a shard cannot be read.
    """
    folder = Path(out)
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(store.info.shards)))
    rejects = Rejects()
    pairs = Pairs(rejects)
    rows = files = done = 0
    for table in store.iter_shards():
        parts = pairs.of(table) if store.info.what == "both" else _all_of(table)
        done += len(table)
        count = len(next(iter(parts.values())))
        if count:
            _write(folder, str(files).zfill(digits), parts)
            rows, files = rows + count, files + 1
        if progress is not None:
            progress(done, len(store))
    pairs.close()
    if len(rejects):
        rejects.write(folder / "rejects.jsonl")
    return Written(rows, files, rejects.rows)


def _all_of(table: pa.Table) -> dict[str, pa.Table]:
    kinds = table["kind"].unique().to_pylist()
    return {kinds[0] if kinds else "image": table}


def _write(folder: Path, number: str, parts: dict[str, pa.Table]) -> None:
    """Write one file of each kind."""
    for kind, table in parts.items():
        path = folder / FOLDERS[kind] / f"{FOLDERS[kind]}_{number}.npy"
        path.parent.mkdir(exist_ok=True)
        matrix = stored_matrix(table["embedding"])
        np.save(path, matrix.astype(np.float16))
    path = folder / METADATA / f"{METADATA}_{number}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(_metadata(parts), path)


def _metadata(parts: dict[str, pa.Table]) -> pa.Table:
    first = next(iter(parts.values()))
    columns: dict[str, Any] = {}
    if "image" in parts:
        paths, ids = parts["image"]["path"].to_pylist(), parts["image"]["id"].to_pylist()
        columns["image_path"] = [path or id for path, id in zip(paths, ids, strict=True)]
    columns["caption"] = parts.get("text", first)["caption"]
    for name in first.column_names:
        if name not in ("kind", "embedding", "caption", "path", "image_path"):
            columns[name] = first[name]
    return pa.table(columns)
