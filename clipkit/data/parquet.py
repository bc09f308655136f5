"""Parquet and Arrow files as rows that can be visited in any order, in little memory.

A parquet file is made to be read from front to back. A large one is therefore copied once into the
cache folder, as an Arrow file of small batches, and rows are read from there one by one. Reading,
rather than mapping, keeps the process as small as it looks.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.data.cells import check_text
from clipkit.data.columnar import Rows
from clipkit.errors import DataError
from clipkit.packages import cache_folder, file_sha256
from clipkit.types import Reject

ARROW_SUFFIXES = (".parquet", ".arrow", ".feather")
IN_MEMORY = 64 << 20
"""A file of up to so many bytes, decompressed, is held in memory."""

_BATCH_BYTES = 64 << 10
_SCAN_ROWS = 65_536
_SCAN_BYTES = 32 << 20


class BatchRows:
    """Rows in record batches of one size, wherever those are.

    Args:
        where: the table's name, for errors.
        schema: its columns.
        count: of the batches.
        read: returns one batch, or some of its columns.
    """

    def __init__(
        self,
        where: str,
        schema: pa.Schema,
        count: int,
        read: Callable[[int, Sequence[str] | None], pa.RecordBatch],
    ) -> None:
        """Look at the first batch and at the last."""
        self.where = where
        self.columns = list(schema.names)
        self._schema = schema
        self._batches = count
        self._read = read
        self._size = read(0, None).num_rows if count else 1
        self._rows = (count - 1) * self._size + read(count - 1, None).num_rows if count else 0
        self._last: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._rows

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some of the columns, many rows at a time."""
        parts: list[pa.RecordBatch] = []
        for number in range(self._batches):
            parts.append(self._read(number, columns))
            full = len(parts) * self._size >= _SCAN_ROWS
            if full or sum(part.nbytes for part in parts[-8:]) * len(parts) > 8 * _SCAN_BYTES:
                yield _joined(parts)
                parts = []
        if parts:
            yield _joined(parts)

    def row(self, number: int) -> dict[str, Any]:
        """Return one row."""
        at, within = divmod(number, self._size)
        last = self._last
        if last is None or last[0] != at:
            last = self._last = (at, self._read(at, None))
        row: dict[str, Any] = last[1].slice(within, 1).to_pylist()[0]
        return row

    def place(self, number: int) -> str:
        """Return the file and the row, counted from 0."""
        return f"{self.where} row {number}"

    def class_names(self, column: str) -> list[str] | None:
        """Return the names of a ClassLabel, which `datasets` writes into the file."""
        told = (self._schema.metadata or {}).get(b"huggingface")
        feature = json.loads(told)["info"]["features"].get(column) if told else None
        names = feature.get("names") if isinstance(feature, dict) else None
        return [str(name) for name in names] if names else None

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column."""
        return {field.name: field.type for field in self._schema}

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return file_sha256(Path(self.where))

    def rejects(self) -> list[Reject]:
        """Return nothing: such a file is whole or cannot be read at all."""
        return []


def open_arrow_file(path: Path) -> Rows:
    """Open a parquet or Arrow file.

    Raises:
        DataError: it cannot be read.
    """
    kind = "parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    try:
        schema, size, batches = _parquet(path) if kind == "parquet" else _arrow(path)
        if len(set(schema.names)) < len(schema.names):
            raise DataError(f"{path} names a column twice: {', '.join(map(repr, schema.names))}")
        batches = (check_text(batch, str(path)) for batch in batches)
        if size <= IN_MEMORY:
            return _in_memory(str(path), schema, batches)
        return _cached(path, schema, batches)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        cause = str(error).strip().partition("\n")[0][:200]
        raise DataError(f"{path} cannot be read as {kind}: {cause}") from error
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"{path} cannot be read: {cause}") from error


def _parquet(path: Path) -> tuple[pa.Schema, int, Iterator[pa.RecordBatch]]:
    """Return schema, size in bytes and batches of a parquet file."""
    file = pq.ParquetFile(path, memory_map=False)
    groups = file.metadata.num_row_groups
    size = sum(file.metadata.row_group(number).total_byte_size for number in range(groups))
    per_row = max(size // max(file.metadata.num_rows, 1), 1)
    rows = max(1, min(_SCAN_ROWS, _SCAN_BYTES // per_row))

    def batches() -> Iterator[pa.RecordBatch]:
        with file:
            yield from file.iter_batches(batch_size=rows)

    return file.schema_arrow, size, batches()


def _arrow(path: Path) -> tuple[pa.Schema, int, Iterator[pa.RecordBatch]]:
    """Return schema, size in bytes and batches of an Arrow file, of either format."""
    source = pa.OSFile(str(path))
    try:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        file = pa.ipc.open_stream(source)
        batches = iter(file)
    return file.schema, source.size(), batches


def _in_memory(where: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Rows:
    table = pa.Table.from_batches([_plain(batch) for batch in batches], _plain_schema(schema))
    parts = table.combine_chunks().to_batches(max_chunksize=_SCAN_ROWS)
    return BatchRows(
        where,
        table.schema,
        len(parts),
        lambda number, columns: parts[number].select(columns or table.schema.names),
    )


def _cached(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Rows:
    """Open a file's copy in the cache; make it where there is none that is as new."""
    state = path.stat()
    told = json.dumps([str(path.resolve()), state.st_size, state.st_mtime_ns])
    folder = cache_folder() / "tables"
    copy = folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.arrow"
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = copy.with_suffix(f".{os.getpid()}")
        try:
            _write(part, _plain_schema(schema), batches)
            part.replace(copy)
        finally:
            part.unlink(missing_ok=True)
        pa.default_memory_pool().release_unused()
    return _open_copy(str(path), copy)


def _open_copy(where: str, copy: Path) -> Rows:
    readers: dict[tuple[str, ...], Any] = {}
    lock = threading.Lock()

    def read(number: int, columns: Sequence[str] | None) -> pa.RecordBatch:
        key = tuple(columns or ())
        with lock:
            if key not in readers:
                chosen = [whole.schema.get_field_index(name) for name in key] or None
                options = pa.ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
                readers[key] = pa.ipc.open_file(pa.OSFile(str(copy)), options=options)
            return readers[key].get_batch(number)

    whole = readers[()] = pa.ipc.open_file(pa.OSFile(str(copy)))
    return BatchRows(where, whole.schema, whole.num_record_batches, read)


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches anew, in a size that is read in no time."""
    size = 0
    rest: list[pa.RecordBatch] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in chain(map(_plain, batches), [None]):
            if batch is not None:
                rest.append(batch)
                if not batch.num_rows:
                    continue
                size = size or max(1, min(4096, _BATCH_BYTES * batch.num_rows // batch.nbytes))
            if not rest:
                break
            parts = _joined(rest)
            whole = parts.num_rows if batch is None else parts.num_rows // size * size
            for at in range(0, whole, size or 1):
                writer.write_batch(parts.slice(at, min(size, whole - at)))
            rest = [parts.slice(whole)] if whole < parts.num_rows else []


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without dictionaries and extension types."""
    schema = _plain_schema(batch.schema)
    if schema.equals(batch.schema):
        return batch
    arrays = [
        (cells.storage if isinstance(cells, pa.ExtensionArray) else cells).cast(field.type)
        for cells, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    for at, field in enumerate(schema):
        kind = field.type
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if str(kind) in ("string_view", "binary_view"):
            kind = pa.large_string() if str(kind) == "string_view" else pa.large_binary()
        schema = schema.set(at, field.with_type(kind))
    return schema


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)
