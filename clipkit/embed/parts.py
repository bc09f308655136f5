"""Small pieces of a shard that is not whole yet; what a kill leaves of it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipkit.embed.rows import Row, build_table
from clipkit.embed.stream import Bad, Chunk
from clipkit.packages import replace_file

_SHA = 32


@dataclass(frozen=True, slots=True)
class Part:
    """What some consecutive samples gave, as it is kept on disk.

    Attributes:
        start: number of the first sample.
        stop: number behind the last one.
        table: the rows, in the columns of the store.
        bad: the samples whose image is in no row.
        entries: 16 bytes for each sample, see `listing`.
        asked: how many rows the samples should give.
        encoded: how many of the rows a model computed.
        skipped: samples that have nothing of what was asked for.
    """

    start: int
    stop: int
    table: pa.Table
    bad: tuple[Bad, ...]
    entries: bytes
    asked: int
    encoded: int
    skipped: int

    def write(self, folder: Path) -> None:
        """Write a file that says by its name what it covers, and by its start that it is whole."""
        told = {
            "bad": [asdict(bad) for bad in self.bad],
            "entries": self.entries.hex(),
            "asked": self.asked,
            "encoded": self.encoded,
            "skipped": self.skipped,
        }
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        head = json.dumps(told).encode(errors="surrogatepass")
        body = len(head).to_bytes(8, "little") + head + sink.getvalue().to_pybytes()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / part_name(self.start, self.stop)
        replace_file(path, hashlib.sha256(body).digest() + body)


def join_chunks(chunks: Sequence[Chunk], schema: pa.Schema) -> Part:
    """Put chunks that follow each other into one part."""
    rows: list[Row] = [row for chunk in chunks for row in chunk.rows]
    embeddings = [chunk.embeddings for chunk in chunks if len(chunk.embeddings)]
    width = schema.field("embedding").type.list_size
    return Part(
        chunks[0].start,
        chunks[-1].stop,
        build_table(rows, np.concatenate([np.zeros((0, width), np.float32), *embeddings]), schema),
        tuple(bad for chunk in chunks for bad in chunk.bad),
        b"".join(chunk.entries for chunk in chunks),
        sum(chunk.asked for chunk in chunks),
        sum(chunk.encoded for chunk in chunks),
        sum(chunk.skipped for chunk in chunks),
    )


def read_part(path: Path) -> Part | None:
    """Read a part; `None` when it is damaged or gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:_SHA], content[_SHA:]
    if hashlib.sha256(body).digest() != digest:
        return None
    size = int.from_bytes(body[:8], "little")
    told = json.loads(body[8 : 8 + size])
    table = pa.ipc.open_stream(pa.py_buffer(body[8 + size :])).read_all()
    start, stop = part_range(path)
    return Part(
        start,
        stop,
        table,
        tuple(Bad(**bad) for bad in told["bad"]),
        bytes.fromhex(told["entries"]),
        told["asked"],
        told["encoded"],
        told["skipped"],
    )


def part_name(start: int, stop: int) -> str:
    """Return the name of the file of some samples."""
    return f"{start:012d}-{stop:012d}.part"


def part_range(path: Path) -> tuple[int, int]:
    """Return the samples that a file is about, by its name."""
    start, _, stop = path.stem.partition("-")
    return int(start), int(stop)


def chain(folder: Path, start: int, stop: int) -> list[Path]:
    """Return the parts that follow each other from one sample on, up to another or to a gap."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.part")):
        found[part_range(path)[0]] = path  # of two that begin alike, the longer one
    parts: list[Path] = []
    while start < stop and start in found:
        parts.append(found[start])
        start = part_range(found[start])[1]
    return parts
