"""The end of the work on a store: shards of parts, the list of rejects, the new `store.json`."""

import hashlib
import io
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.data.rejects import Rejects
from clipkit.embed.listing import listing
from clipkit.embed.parts import Part
from clipkit.embed.prepare import Ready, remove_all_but
from clipkit.embed.reuse import count_removed
from clipkit.embed.rows import shard_bytes
from clipkit.embed.store import EmbeddingStore, Made, Shard, StoreInfo
from clipkit.embed.stream import Bad
from clipkit.embed.work import Record, WorkFolder, writing
from clipkit.packages import replace_file
from clipkit.types import Reject

_REJECTS_SCHEMA = pa.schema(
    [("id", pa.string()), ("reason", pa.string()), ("where", pa.string()), ("row", pa.int64()),
     ("sha256", pa.string()), ("retry", pa.bool_())]
)  # fmt: skip
_READING = -1  # `row` of a reject that reading the data set gave

Fingerprint = Callable[[Iterator[str]], str]


def put_together(
    folder: Path, stem: str, parts: Sequence[Part], schema: pa.Schema, taken: dict[str, str]
) -> Record:
    """Write a shard of its parts; its bytes do not depend on where one part ends.

    Args:
        folder: of the store.
        stem: of the file's name.
        parts: of the whole shard, in order.
        schema: its columns.
        taken: files that must stay, and their sha256; one with the same bytes is the shard. The
            new one is added.
    """
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    content = shard_bytes(table)
    digest = hashlib.sha256(content).hexdigest()
    same = [name for name, sha256 in taken.items() if sha256 == digest and name.startswith(stem)]
    name = same[0] if same else _free_name(stem, taken)
    if not same:
        with writing(folder):
            replace_file(folder / name, content)
        taken[name] = digest
    shard = Shard(
        name,
        rows=len(table),
        covers=sum(part.asked for part in parts),
        sha256=digest,
        skipped=sum(part.skipped for part in parts),
        listing=listing(schema.to_string(), b"".join(part.entries for part in parts)),
    )
    bad = tuple(bad for part in parts for bad in part.bad)
    return Record(shard, bad, sum(part.encoded for part in parts))


def _free_name(stem: str, taken: Container[str]) -> str:
    """Return a file's name that no file has which must stay."""
    name, times = f"{stem}.parquet", 1
    while name in taken:
        times += 1
        name = f"{stem}-{times}.parquet"
    return name


def finish(
    work: WorkFolder,
    info: StoreInfo,
    ready: Ready,
    rejects: Rejects,
    fingerprint: Fingerprint | None,
) -> EmbeddingStore:
    """Turn the store into the new one, in one step, and remove what is no longer needed."""
    folder, before = work.folder, ready.before
    count = len(list((work.path / "shards").glob("*.json")))
    records = [record for record in map(work.record, range(count)) if record is not None]
    reading = len(rejects)
    bad = [bad for record in records for bad in record.bad]
    for each in bad:
        rejects.add(Reject(each.id, each.reason, each.where))
    info.shards = [record.shard for record in records]
    info.rows = sum(shard.rows for shard in info.shards)
    info.skipped = sum(shard.skipped for shard in info.shards)
    info.input_rows = reading + sum(shard.covers for shard in info.shards)
    info.rejected = len(rejects)
    rejects.check(info.input_rows, final=True)
    if fingerprint is not None:
        info.data["fingerprint"] = fingerprint(_image_digests(folder, info, bad))
    made = _made(folder, info, ready, records, rejects)
    content = _rejects_file(rejects.rows[:reading], bad)
    work.withdraw()
    info.complete = True
    with writing(folder):
        old = folder / before.rejects if before is not None and before.complete else None
        if old is not None and old.is_file() and old.read_bytes() == content:
            info.rejects = old.name
        else:
            info.rejects = _free_name("rejects", {old.name} if old is not None else ())
            replace_file(folder / info.rejects, content)
        info.write(folder)
    remove_all_but(folder, info)
    work.remove()
    store = EmbeddingStore(folder)
    store.made = made
    return store


def _made(
    folder: Path, info: StoreInfo, ready: Ready, records: Sequence[Record], rejects: Rejects
) -> Made:
    encoded = sum(record.encoded for record in records)
    removed = 0
    if ready.reuse:
        replaced = [folder / name for name in ready.reuse]
        after = [folder / s.file for s in info.shards if s.file not in ready.kept]
        removed = count_removed(replaced, after, [reject.id for reject in rejects.rows])
    return Made(encoded, info.rows - encoded, removed, tuple(dict.fromkeys(ready.redone)))


def _image_digests(folder: Path, info: StoreInfo, bad: Sequence[Bad]) -> Iterator[str]:
    """Yield the sha256 of each sample's image, those that cannot be used included."""
    missing = {each.place: each.sha256 for each in bad}
    place = 0
    for shard in info.shards:
        table = pq.read_table(folder / shard.file, columns=["kind", "sha256"])
        for kind, digest in zip(
            table["kind"].to_pylist(), table["sha256"].to_pylist(), strict=True
        ):
            if kind != "image":
                continue
            while place in missing:
                yield missing[place]
                place += 1
            yield digest
            place += 1
    while place in missing:
        yield missing[place]
        place += 1


def _rejects_file(reading: Sequence[Reject], bad: Sequence[Bad]) -> bytes:
    columns: list[Any] = [
        [r.id for r in reading] + [b.id for b in bad],
        [r.reason for r in reading] + [b.reason for b in bad],
        [r.where for r in reading] + [b.where for b in bad],
        [_READING] * len(reading) + [b.place for b in bad],
        [""] * len(reading) + [b.sha256 for b in bad],
        [False] * len(reading) + [b.retry for b in bad],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _REJECTS_SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=_REJECTS_SCHEMA), buffer)
    return buffer.getvalue()
