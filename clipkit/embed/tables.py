"""A store from tables that are there already, such as embeddings that another program made."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from clipkit.embed.rows import shard_bytes
from clipkit.embed.store import EmbeddingStore, Shard, StoreInfo
from clipkit.errors import StoreError
from clipkit.packages import file_sha256, replace_file


def write_tables(folder: Path, info: StoreInfo, tables: Iterable[pa.Table]) -> EmbeddingStore:
    """Write each table as a shard, and say in `store.json` that the store is complete.

    Args:
        folder: absent or empty.
        info: what the store is of; its rows and shards are filled in.
        tables: with the columns of a store, all the same.

    Raises:
        StoreError: the folder holds something, or there are no rows.
    """
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    info.write(folder)
    for table in tables:
        name = f"shard-{len(info.shards):05d}.parquet"
        replace_file(folder / name, shard_bytes(table))
        info.shards.append(Shard(name, len(table), len(table), file_sha256(folder / name)))
        info.rows += len(table)
    if not info.rows:
        raise StoreError(f"there are no rows to put into {folder}")
    info.input_rows = info.rows
    info.complete = True
    info.write(folder)
    return EmbeddingStore(folder)


def check_empty(folder: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        StoreError: it has, or it is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise StoreError(f"{folder} is there already: name another folder, or delete it")
