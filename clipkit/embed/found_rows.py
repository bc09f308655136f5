"""Rows of a store that something was found out about, as a table on the disk."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.embed.store import EmbeddingStore
from clipkit.errors import StoreError
from clipkit.packages import new_file

SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = ("id", "kind", "label", "caption", "path")

_CHUNK = 10_000


def check_listing(path: Path) -> None:
    """Refuse a file that could not be written.

    Raises:
        StoreError: it is there already, or its name tells no kind of table.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise StoreError(f"{path} ends in none of {', '.join(SUFFIXES)}")
    if path.exists():
        raise StoreError(f"{path} is there already: name another file, or delete it")


def describe(
    store: EmbeddingStore, found: Sequence[tuple[int, Mapping[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Yield what was found out about some rows, with what the store tells of them.

    Args:
        store: whose rows they are.
        found: the place of a row, and what was found out.
    """
    for start in range(0, len(found), _CHUNK):
        part = found[start : start + _CHUNK]
        told = store.rows_at([row for row, _ in part], COLUMNS)
        for (row, values), columns in zip(part, told, strict=True):
            yield {**values, "row": row, **{name: columns[name] for name in COLUMNS}}


def write_listing(
    path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema | None = None
) -> int:
    """Write rows with the same columns as csv, JSON lines or parquet; return how many.

    The file appears whole; rows are held some thousands at a time.

    Args:
        path: the file, whose ending tells the kind.
        rows: what to write.
        schema: types of the columns in parquet; those of the first rows when `None`.

    Raises:
        StoreError: it is there already, or its name tells no kind of table.
    """
    check_listing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with new_file(path) as part, _WRITERS[path.suffix.lower()](part, schema) as write:
        chunk: list[Mapping[str, Any]] = []
        for row in rows:
            chunk.append(row)
            count += 1
            if len(chunk) == _CHUNK:
                write(chunk)
                chunk = []
        write(chunk)
    return count


Write = Callable[[Sequence[Mapping[str, Any]]], None]


@contextmanager
def _csv(path: Path, _: pa.Schema | None) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None

        def write(rows: Sequence[Mapping[str, Any]]) -> None:
            nonlocal writer
            if writer is None and rows:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
            if writer is not None:
                writer.writerows(rows)

        yield write


@contextmanager
def _jsonl(path: Path, _: pa.Schema | None) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(
            json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows
        )


@contextmanager
def _parquet(path: Path, given: pa.Schema | None) -> Iterator[Write]:
    writer: pq.ParquetWriter | None = None

    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        nonlocal writer
        if given is not None:
            if writer is None:
                writer = pq.ParquetWriter(path, given)
            writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], given))
        elif rows:
            names = list(rows[0])
            texts = [pa.field(name, pa.string()) for name in names if name in COLUMNS]
            first = pa.Table.from_pylist([dict(row) for row in rows])
            known = {field.name: field for field in texts}
            schema = pa.schema([known.get(name, first.schema.field(name)) for name in names])
            if writer is None:
                writer = pq.ParquetWriter(path, schema)
            writer.write_table(first.cast(writer.schema))
        elif writer is None:
            pq.write_table(pa.table({}), path)

    yield write
    if writer is not None:
        writer.close()


_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
