"""Large JSON lines: where each line begins is kept, and a line is read when it is asked for."""

import io
import os
import re
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from clipkit.data.texts import parse_object
from clipkit.errors import DataError
from clipkit.packages import file_sha256
from clipkit.types import Reject

_BLOCK = 16 << 20
_BOM = b"\xef\xbb\xbf"
_FIRST_LINES = 4096
_HALF_PAIR = re.compile(  # of surrogates: \ud83d without \ude00 behind it, or that without this
    rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F](?<!\\u[dD][89abAB]..\\u[dD].))"
)


class JsonRows:
    """The lines of a JSON lines file that hold an object.

    Args:
        path: UTF-8, with or without a byte order mark; an object a line.

    Raises:
        DataError: the file cannot be read, or it begins with no object.
    """

    def __init__(self, path: Path) -> None:
        """Look at the first lines for the names and types of the columns."""
        self.where = str(path)
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        weakref.finalize(self, os.close, self._file)
        self._offsets = np.zeros(0, dtype=np.int64)
        self._sizes = np.zeros(0, dtype=np.uint32)
        self._skipped: list[int] = []  # for each line left out, how many rows come before it
        self._rejects: list[Reject] = []
        self._scanned = False
        self._met: tuple[int, np.ndarray, np.ndarray] | None = None  # the block being read
        first = next(self._blocks(), (0, b""))[1].split(b"\n", _FIRST_LINES)[:_FIRST_LINES]
        rows = [row for row in map(_object, first) if isinstance(row, dict)]
        if not rows:
            raise DataError(f"{path} does not begin with a JSON object a line")
        self.columns = list(dict.fromkeys(key for row in rows for key in row))
        self._types = {
            name: _type([row[name] for row in rows if row.get(name) is not None])
            for name in self.columns
        }

    def __len__(self) -> int:
        """Return the number of rows, once `batches` went through them."""
        return len(self._offsets)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some of the columns; the first time, remember where each row is."""
        offsets, sizes = array("q"), array("I")
        lines = 0
        for start, block in self._blocks():
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10)
            begins = np.concatenate([[0], ends[:-1] + 1])
            batch = self._parsed(block, columns, len(ends))
            good = np.ones(len(ends), dtype=bool)
            if batch is None:
                batch, good = self._one_by_one(block, columns, lines, len(offsets))
            if not self._scanned:
                here = (begins[good] + start).astype(np.int64)
                long = (ends - begins)[good].astype(np.uint32)
                self._met = (len(offsets), here, long)
                offsets.frombytes(here.tobytes())
                sizes.frombytes(long.tobytes())
            lines += len(ends)
            yield batch
        if not self._scanned:
            self._offsets = np.frombuffer(offsets, dtype=np.int64)
            self._sizes = np.frombuffer(sizes, dtype=np.uint32)
            self._scanned, self._met = True, None

    def row(self, number: int) -> dict[str, Any]:
        """Return one row.

        Raises:
            DataError: there is no object any more where one was.
        """
        row = _object(self._line(number))
        if not isinstance(row, dict):
            raise DataError(f"{self.place(number)} is no JSON object; the file changed meanwhile")
        return row

    def place(self, number: int) -> str:
        """Return the file and the line, counted from 1."""
        before = int(np.searchsorted(self._skipped, number, side="right"))
        return f"{self.where} line {number + before + 1}"

    def class_names(self, column: str) -> None:
        """Return nothing: labels are written out."""
        return

    def types(self) -> None:
        """Return nothing: a line may hold anything."""
        return

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return file_sha256(Path(self.where))

    def rejects(self) -> list[Reject]:
        """Return the lines that hold no object."""
        return list(self._rejects)

    def _line(self, number: int) -> bytes:
        offsets, sizes, at = self._offsets, self._sizes, number
        if self._met is not None:
            first, offsets, sizes = self._met
            at = number - first
        return os.pread(self._file, int(sizes[at]), int(offsets[at]))

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield where a run of whole lines begins, and its bytes, each line with its end."""
        at = len(_BOM) if os.pread(self._file, len(_BOM), 0) == _BOM else 0
        rest = b""
        while chunk := os.pread(self._file, _BLOCK, at + len(rest)):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                continue
            block = rest + chunk[:cut]
            yield at, block
            at += len(block)
            rest = chunk[cut:]
        if rest:
            yield at, rest + b"\n"

    def _parsed(self, block: bytes, columns: Sequence[str], lines: int) -> pa.RecordBatch | None:
        """Parse a block at once; `None` where that is not sure to see each line as it is."""
        types = [self._types[name] for name in columns]
        if None in types or _HALF_PAIR.search(block):
            return None
        schema = pa.schema(list(zip(columns, types, strict=True)))
        options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        reading = pj.ReadOptions(block_size=4 << 20)
        try:
            block.decode()
            table = pj.read_json(io.BytesIO(block), reading, options)
        except (UnicodeDecodeError, pa.ArrowInvalid):
            return None
        if table.num_rows != lines:
            return None
        return table.select(columns).combine_chunks().to_batches()[0]

    def _one_by_one(
        self, block: bytes, columns: Sequence[str], lines: int, rows: int
    ) -> tuple[pa.RecordBatch, np.ndarray]:
        """Parse a block line by line, and list the lines that hold no object."""
        told = [_object(line) for line in block[:-1].split(b"\n")]
        good = np.array([isinstance(row, dict) for row in told])
        if not self._scanned:
            for at in np.flatnonzero(~good):
                self._skipped.append(rows + int(good[:at].sum()))
                if told[at] is not None:
                    number = lines + int(at) + 1
                    place = f"{self.where} line {number}"
                    self._rejects.append(Reject(f"line {number}", str(told[at]), place))
        objects = [row for row in told if isinstance(row, dict)]
        cells = [
            pa.array([_cell(row.get(name)) for row in objects], pa.string()) for name in columns
        ]
        return pa.RecordBatch.from_arrays(cells, names=list(columns)), good


def _object(line: bytes) -> dict[str, Any] | str | None:
    """Return a line's object, the reason why there is none, or `None` for an empty line."""
    if not line.strip():
        return None
    try:
        row = parse_object(line.decode())
    except UnicodeDecodeError:
        return "not UTF-8 text"
    return "not a JSON object" if row is None else row


def _type(values: list[Any]) -> pa.DataType | None:
    """Return the type of a column, where all of its values share a simple one."""
    if all(isinstance(value, str) for value in values):
        return pa.string()
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return pa.int64()
    if all(isinstance(v, list) and all(isinstance(text, str) for text in v) for v in values):
        return pa.list_(pa.string())
    return None


def _cell(value: Any) -> str | None:
    """Return text for a cell; `None` has it looked at more closely."""
    if isinstance(value, dict):
        value = value.get("path")
    return str(value) if isinstance(value, str | int | float) else None
