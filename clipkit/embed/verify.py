"""Whether a store is as it was written: every file, every row, every number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.embed.vectors import stored_matrix
from clipkit.packages import file_sha256

KINDS = {"images": {"image"}, "captions": {"text"}, "both": {"image", "text"}}
"""Which kinds of rows a store has, by what it is of."""

LENGTH = 1e-2
"""How far the length of an embedding may be from 1; float16 alone gives less than 1e-3."""

_BATCH = 16_384


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a store.

    Attributes:
        text: what it is.
        shard: the file, or `None` where it is not about one.
        first: number of the first row of the input that has to be done again for it.
        last: number of the last one.
    """

    text: str
    shard: str | None = None
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        """Return it in words."""
        return self.text

    def redo(self) -> str:
        """Say what has to be done again, as far as it is known."""
        if self.shard is None or self.first is None:
            return ""
        return f"rows {self.first} to {self.last} of the input"


def verify_store(folder: Path, info: Any) -> list[Problem]:
    """Return what is wrong with the files of a store, in the order of the shards.

    Sizes, sha256, columns and precision; rows and rejects against the input, for each shard; the
    order of an image and its captions; numbers that are not finite and lengths that are not 1.

    Args:
        folder: of the store.
        info: its `StoreInfo`.
    """
    problems = []
    rejected, ids = _rejects(folder / info.rejects)
    start = 0
    before: str | None = ""  # the id of the row before, None where it is not known
    for number, shard in enumerate(info.shards):
        last = start + shard.covers - 1
        found = _whole(folder / shard.file, shard)
        if found:
            before = None
        else:
            lost = int((rejected // info.shard_rows == number).sum())  # by samples
            if shard.rows + lost != shard.covers:
                found.append(
                    f"{shard.file} has {shard.rows} rows and {lost} are rejected,"
                    f" of {shard.covers} that it covers"
                )
            more, before = _content(folder / shard.file, info, before, ids)
            found += more
        problems += [Problem(text, shard.file, start, last) for text in found]
        start += shard.covers
    if info.complete:
        problems += [Problem(text) for text in info.miscounts(len(rejected))]
    return problems


def _rejects(path: Path) -> tuple[np.ndarray, set[str]]:
    """Return the places and ids of rejected rows; none where the file cannot be read."""
    try:
        table = pq.read_table(path, columns=["row", "id"])
    except (OSError, pa.ArrowException):
        return np.zeros(0, np.int64), set()
    return table["row"].to_numpy(), set(table["id"].to_pylist())


def _whole(path: Path, shard: Any) -> list[str]:
    """Return why a file is not the one that was written."""
    if not path.is_file():
        return [f"{shard.file} is missing"]
    if file_sha256(path) != shard.sha256:
        return [f"{shard.file} was changed after it was written (sha256 differs)"]
    rows = pq.read_metadata(path).num_rows
    if rows != shard.rows:
        return [f"{shard.file} has {rows} rows, not the {shard.rows} that it should have"]
    return []


def _content(
    path: Path, info: Any, before: str | None, rejected: set[str]
) -> tuple[list[str], str | None]:
    """Return what is wrong with the rows of a whole file, and the id of the last one."""
    file = pq.ParquetFile(path, memory_map=True)
    schema = file.schema_arrow
    missing = [name for name in ("id", "kind", "embedding") if name not in schema.names]
    if missing:
        return [f"{path.name} lacks column {', '.join(missing)}"], None
    kind = schema.field("embedding").type
    precision = {pa.float16(): "float16", pa.float32(): "float32"}
    if not pa.types.is_fixed_size_list(kind) or (
        kind.list_size != info.dim or precision.get(kind.value_type) != info.dtype
    ):
        return [f"{path.name} holds {kind}, not {info.dim} x {info.dtype}"], None
    wrong: dict[str, list[int]] = {}
    start = 0
    for batch in file.iter_batches(_BATCH, columns=["id", "kind", "embedding"]):
        found = list(_bad_rows(batch, info))
        if info.what == "both":
            found.append(("without its image before it", _strays(batch, before, rejected)))
        for what, rows in found:
            wrong.setdefault(what, []).extend((rows + start).tolist())
        start += len(batch)
        before = batch["id"][-1].as_py() if len(batch) else before
    return [f"{path.name}: {_told(rows)} {what}" for what, rows in wrong.items() if rows], before


def _bad_rows(batch: pa.RecordBatch, info: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what may be wrong with a row, and the rows it is wrong with."""
    table = pa.table({"embedding": batch["embedding"]})
    numbers = stored_matrix(table["embedding"]).astype(np.float32, copy=False)
    finite = np.isfinite(numbers).all(axis=1)
    yield "with a number that is not finite", np.flatnonzero(~finite)
    if info.normalised:
        short = np.abs(np.linalg.norm(numbers, axis=1) - 1) > LENGTH
        yield "of another length than 1", np.flatnonzero(short & finite)
    empty = pc.is_null(batch["id"]).to_numpy(zero_copy_only=False)
    yield "without an id", np.flatnonzero(empty)
    if info.what in KINDS:
        known = pa.array(sorted(KINDS[info.what]))
        odd = pc.invert(pc.is_in(batch["kind"].cast(pa.string()), value_set=known))
        yield f"that are none of {info.what}", np.flatnonzero(odd.to_numpy(zero_copy_only=False))


def _strays(batch: pa.RecordBatch, before: str | None, rejected: set[str]) -> np.ndarray:
    """Return the captions that do not follow their image, though it was not rejected."""
    ids = batch["id"].to_pylist()
    texts = np.flatnonzero(pc.equal(batch["kind"], "text").to_numpy(zero_copy_only=False))
    strays = [
        row
        for row in texts.tolist()
        if (last := ids[row - 1] if row else before) is not None
        and ids[row] != last
        and ids[row] not in rejected
    ]
    return np.array(strays, np.int64)


def _told(rows: list[int]) -> str:
    first = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"{len(rows)} row{'s' * (len(rows) != 1)} ({first})"
