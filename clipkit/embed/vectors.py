"""The embeddings of a store as one plain file, read block by block: what searches run over.

A parquet shard has to be decompressed and decoded, which takes seconds for a million rows. So the
embeddings of a large store are laid out once, in the precision they have, in a file of their own:

    search/vectors-<fingerprint>.npy     in the store's folder, or in the cache where that is locked

Its name carries the fingerprint of the shards. When they change, a new file is made and the old
one goes; the folder `search` may be deleted at any time. Blocks are read rather than mapped, so a
process stays as small as it looks.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.errors import StoreError
from clipkit.packages import cache_folder, new_file

SEARCH = "search"
IN_MEMORY = 32 << 20
"""Embeddings of up to so many bytes are held in memory, without a file."""

BLOCK_ROWS = 2_048
"""Rows a block: few enough to stay in the cache of one core from reading to multiplying."""

_LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)
_HEADER = 128  # bytes before the numbers, whatever the shape: numpy leaves room for it to grow


def shards_fingerprint(shards: Iterable[Any], dim: int, dtype: str) -> str:
    """Return `sha256:...`, which changes when a row of the shards does.

    Args:
        shards: those of a `StoreInfo`.
        dim: width of an embedding.
        dtype: its precision.
    """
    told = [dim, dtype, *([shard.file, shard.rows, shard.sha256] for shard in shards)]
    return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


class Vectors:
    """Rows of embeddings, in memory or in a file; any of them can be read without the others.

    Args:
        source: the rows, or a file that `write_vectors` made.
        rows: how many there are.
        dim: width of one.
        dtype: precision that they are stored in.
    """

    def __init__(self, source: np.ndarray | Path, rows: int, dim: int, dtype: str) -> None:
        """Read nothing yet."""
        self._source = source
        self.rows = rows
        self.dim = dim
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.rows

    def blocks(
        self,
        size: int = BLOCK_ROWS,
        *,
        keep: np.ndarray | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "rows dim"]]]:
        """Yield the first row's number and some rows as float32; the next block overwrites them.

        Args:
            size: rows a block.
            keep: for each row whether it matters; blocks where none does are not read.
            start: the first row to yield.
            stop: the row after the last one; all that follow when `None`.
        """
        end = self.rows if stop is None else stop
        stored = np.empty((size, self.dim), self.dtype)
        single = torch.empty(size, self.dim)
        with self._reading() as read:
            for first in range(start, end, size):
                after = min(first + size, end)
                if keep is not None and not keep[first:after].any():
                    continue
                block = single[: after - first]
                block.copy_(torch.from_numpy(read(first, stored[: after - first])))
                yield first, block

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dim"]:
        """Return some rows as they are stored, in the order they are asked for."""
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(wanted), self.dim), self.dtype)
        with self._reading() as read:
            for at in np.argsort(wanted, kind="stable"):
                read(int(wanted[at]), found[at : at + 1])
        return found

    @contextmanager
    def _reading(self) -> Iterator[Callable[[int, np.ndarray], np.ndarray]]:
        """Give what fills an array with the rows that begin at one."""
        source = self._source
        if isinstance(source, np.ndarray):

            def copy(start: int, into: np.ndarray) -> np.ndarray:
                into[:] = source[start : start + len(into)]
                return into

            yield copy
            return
        try:
            file = FileIO(source)
        except OSError as error:
            raise StoreError(f"{source} cannot be read: {error.strerror}") from None
        with file:

            def fill(start: int, into: np.ndarray) -> np.ndarray:
                _read_rows(file, start, into)
                return into

            yield fill


def _read_rows(file: FileIO, start: int, into: np.ndarray) -> None:
    """Fill an array with the rows that begin at one of a file."""
    file.seek(_HEADER + start * into.itemsize * into.shape[1])
    room = memoryview(into.reshape(-1).view(np.uint8).data)
    while room:
        count = file.readinto(room)
        if not count:
            raise StoreError(f"{file.name!r} ends too early: delete it, and it is made again")
        room = room[count:]


def write_vectors(
    path: Path, parts: Iterable[Float[np.ndarray, "_ dim"]], rows: int, dim: int, dtype: str
) -> None:
    """Write rows into a file that numpy reads too; it appears whole.

    Args:
        path: the file, whose folder is made.
        parts: the rows, in order.
        rows: how many they are together.
        dim: width of one.
        dtype: precision to store.

    Raises:
        StoreError: there are more or fewer rows than that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with new_file(path) as part:
        with part.open("wb") as stream:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, dim)}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in parts:
                stream.write(np.ascontiguousarray(block, dtype).data)
                written += len(block)
        if written != rows:
            raise StoreError(f"{path.parent.parent}: {written} rows in the shards, {rows} told")


def find_vectors(
    folder: Path,
    fingerprint: str,
    parts: Callable[[], Iterable[Float[np.ndarray, "_ dim"]]],
    *,
    rows: int,
    dim: int,
    dtype: str,
) -> Vectors:
    """Return the embeddings of a store; where they are many and in no file yet, make it.

    Args:
        folder: of the store.
        fingerprint: `shards_fingerprint` of what it holds.
        parts: gives the embeddings, shard by shard, in the precision they are stored in.
        rows: how many they are.
        dim: width of one.
        dtype: their precision.

    Raises:
        StoreError: the shards cannot be read, or have another number of rows.
    """
    size = rows * dim * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        held = np.zeros((rows, dim), dtype)
        at = 0
        for part in parts():
            if at + len(part) <= rows:
                held[at : at + len(part)] = part
            at += len(part)
        if at != rows:
            raise StoreError(f"{folder}: the shards have {at} rows, not {rows} as in store.json")
        return Vectors(held, rows, dim, dtype)
    name = f"vectors-{fingerprint.removeprefix('sha256:')[:16]}.npy"
    kept, cached = folder / SEARCH / name, cache_folder() / SEARCH / name
    for path in (kept, cached):
        if path.is_file() and path.stat().st_size == _HEADER + size:
            return Vectors(path, rows, dim, dtype)
    try:
        write_vectors(kept, parts(), rows, dim, dtype)
        for stale in set(kept.parent.glob("vectors-*.npy")) - {kept}:
            stale.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _LOCKED:
            raise StoreError(f"{kept} cannot be written: {error.strerror}") from None
        write_vectors(cached, parts(), rows, dim, dtype)
        return Vectors(cached, rows, dim, dtype)
    return Vectors(kept, rows, dim, dtype)


def as_matrix(column: pa.ChunkedArray) -> Float[np.ndarray, "rows dim"]:
    """Return a column of embeddings as float32 [rows, dim]."""
    matrix: np.ndarray = stored_matrix(column).astype(np.float32, copy=False)
    return matrix


def stored_matrix(column: pa.ChunkedArray) -> Float[np.ndarray, "rows dim"]:
    """Return a column of embeddings [rows, dim] in the precision they are stored in."""
    parts = [
        chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        for chunk in column.chunks
        if len(chunk)
    ]
    if not parts:
        return np.zeros((0, column.type.list_size), column.type.value_type.to_pandas_dtype())
    return np.concatenate(parts)
