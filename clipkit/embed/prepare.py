"""What of a store can stay as it is, before any work is done on it."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.embed.listing import entries, listing
from clipkit.embed.parts import chain, read_part
from clipkit.embed.store import INFO, Shard, StoreInfo
from clipkit.embed.stream import Bad
from clipkit.embed.work import UNIT, Record, WorkFolder, writing
from clipkit.errors import StoreError
from clipkit.packages import file_sha256
from clipkit.types import Reject, Sample

_OURS = re.compile(r"(shard-\d{5,}|rejects)(-\d+)?\.parquet")


@dataclass(slots=True)
class Ready:
    """What a store holds when the work on it begins.

    Attributes:
        before: what `store.json` said; `None` for a new store.
        finished: nothing is to be done.
        reuse: shards that are replaced, whose embeddings may be used again.
        kept: shards that stay.
        taken: files that must stay until the store is finished: their names, and sha256.
        redone: files that were damaged or missing.
        bad: samples of what stays whose image cannot be used.
        rows: how many rows of the input what stays is made from.
        samples: how many samples that is.
    """

    before: StoreInfo | None
    finished: bool = False
    reuse: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    taken: dict[str, str] = field(default_factory=dict)
    redone: list[str] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    rows: int = 0
    samples: int = 0


def shard_count(samples: int, shard_rows: int) -> int:
    """Return how many shards some samples fill."""
    return -(-samples // shard_rows)


def shard_range(number: int, samples: int, shard_rows: int) -> range:
    """Return the samples of a shard."""
    return range(number * shard_rows, min((number + 1) * shard_rows, samples))


def units_of(samples: range) -> list[range]:
    """Return the pieces of a shard that one process does at a time."""
    return [
        range(start, min(start + UNIT, samples.stop))
        for start in range(samples.start, samples.stop, UNIT)
    ]


def prepare(
    work: WorkFolder,
    info: StoreInfo,
    samples: Sequence[Sample],
    schema: pa.Schema,
    rejects: Sequence[Reject],
) -> Ready:
    """Find out what can stay, and note it in the work folder; what cannot is left as a source.

    A shard stays when its file is whole, its samples are what they were, and none of them was
    left out because a file could not be read: that is tried again.

    Args:
        work: entered by the main process.
        info: what the store is to hold.
        samples: all of them.
        schema: the columns of the store.
        rejects: what reading the data gave.

    Raises:
        StoreError: the store is of another model, or otherwise not of the same making.
    """
    folder, images = work.folder, info.what != "captions"
    work.sweep()
    before = StoreInfo.read(folder) if (folder / INFO).is_file() else None
    if before is None:
        with writing(folder):
            info.write(folder)
    else:
        check_same(folder, info, before)
    reading, old = _old_records(folder, before)
    ready = Ready(before)
    count = shard_count(len(samples), info.shard_rows)
    same = before is not None and before.complete and reading == list(rejects)
    for number in range(max(count, len(old), _highest(work) + 1)):
        there = shard_range(number, len(samples), info.shard_rows)
        found = [record for record in (work.record(number), old.get(number)) if record]
        kept = _sort_out(ready, folder, found, samples, there, schema, images=images)
        same = same and kept is not None and kept == old.get(number)
        if kept is None:
            work.drop(number)
            parts = _keep_parts(work, number, samples, there, schema, images=images)
            ready.samples += parts[0]
            ready.rows += parts[1]
            ready.bad += parts[2]
        else:
            work.keep(number, kept)
            ready.kept.add(kept.shard.file)
            ready.samples += len(there)
            ready.rows += kept.shard.covers
            ready.bad += kept.bad
    ready.reuse = [name for name in dict.fromkeys(ready.reuse) if name not in ready.kept]
    ready.finished = same and len(old) == count
    _remove_unknown(folder, {*ready.taken, before.rejects if before else ""})
    return ready


def check_same(folder: Path, info: StoreInfo, found: StoreInfo) -> None:
    """Raise StoreError where a store is of another making, and name the first difference."""
    for name, mine, theirs in _settings(info, found):
        if mine != theirs:
            raise StoreError(
                f"{folder} holds a store with another {name} ({theirs}, not {mine}): name another"
                " folder, or delete this one"
            )


def _settings(info: StoreInfo, found: StoreInfo) -> list[tuple[str, Any, Any]]:
    """Return what must be equal: its name, and both values."""
    names = ("what", "dtype", "shard_rows", "normalised", "precision")
    told: list[tuple[str, Any, Any]] = [(n, getattr(info, n), getattr(found, n)) for n in names]
    mine, theirs = (json.loads(json.dumps(each.preprocessing)) for each in (info, found))
    told += [
        (f"preprocessing: {key}", mine.get(key), theirs.get(key))
        for key in sorted({**mine, **theirs})
    ]
    if info.model["fingerprint"] != found.model["fingerprint"]:
        mine, theirs = (
            f"{each.model['name'] or 'unnamed'} {each.model['fingerprint'][:19]}…"
            for each in (info, found)
        )
        told.append(("model", mine, theirs))
    return [*told, ("dim", info.dim, found.dim)]


def _old_records(folder: Path, before: StoreInfo | None) -> tuple[list[Reject], dict[int, Record]]:
    """Return what the store as it was could not read, and its shards by number."""
    if before is None or not before.complete:
        return [], {}
    try:
        reading, bad = _read_rejects(pq.read_table(folder / before.rejects).to_pylist())
    except (OSError, pa.ArrowException, KeyError):
        # Which rows are in no shard is not known: no shard stays, but all are sources.
        lost = Bad(-1, "", "", "", "", retry=True)
        return [], {at: Record(shard, (lost,), 0) for at, shard in enumerate(before.shards)}
    size = before.shard_rows
    return reading, {
        number: Record(shard, tuple(b for b in bad if b.place // size == number), 0)
        for number, shard in enumerate(before.shards)
    }


def _read_rejects(rows: list[dict[str, Any]]) -> tuple[list[Reject], list[Bad]]:
    """Part the rows of a `rejects.parquet` into what reading gave and what encoding gave."""
    reading = [Reject(r["id"], r["reason"], r["where"]) for r in rows if r["row"] < 0]
    bad = [
        Bad(r["row"], r["id"], r["reason"], r["where"], r["sha256"], r["retry"])
        for r in rows
        if r["row"] >= 0
    ]
    return reading, bad


def _highest(work: WorkFolder) -> int:
    """Return the highest number of a shard that the work folder knows of."""
    names = [path.stem for part in ("shards", "parts") for path in (work.path / part).glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=-1)


def _sort_out(
    ready: Ready,
    folder: Path,
    found: Sequence[Record],
    samples: Sequence[Sample],
    there: range,
    schema: pa.Schema,
    *,
    images: bool,
) -> Record | None:
    """Return the shard that stays of those found under one number; the others can be sources."""
    kept: Record | None = None
    told = ""
    for record in found:
        shard = record.shard
        if kept is not None and shard.file == kept.shard.file:
            continue
        if not _is_whole(folder, shard):
            ready.redone.append(shard.file)
            continue
        ready.taken[shard.file] = shard.sha256
        if kept is None and len(there) and not any(bad.retry for bad in record.bad):
            told = told or listing(
                schema.to_string(), entries((samples[at] for at in there), images=images)
            )
            if shard.listing == told:
                kept = record
                continue
        ready.reuse.append(shard.file)
    return kept


def _is_whole(folder: Path, shard: Shard) -> bool:
    try:
        return file_sha256(folder / shard.file) == shard.sha256
    except OSError:
        return False


def _keep_parts(
    work: WorkFolder,
    number: int,
    samples: Sequence[Sample],
    there: range,
    schema: pa.Schema,
    *,
    images: bool,
) -> tuple[int, int, list[Bad]]:
    """Remove the parts of a shard that cannot stay; return what the others are made from."""
    folder = work.parts(number)
    kept: set[Path] = set()
    count, rows = 0, 0
    bad: list[Bad] = []
    for unit in units_of(there):
        for path in chain(folder, unit.start, unit.stop):
            part = read_part(path)
            if part is None or part.stop > unit.stop or any(each.retry for each in part.bad):
                break
            now = entries((samples[at] for at in range(part.start, part.stop)), images=images)
            if part.entries != now or part.table.schema != schema:
                break
            kept.add(path)
            count, rows = count + part.stop - part.start, rows + part.asked
            bad += part.bad
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.glob("*"):
        if path not in kept:
            path.unlink(missing_ok=True)
    return count, rows, bad


def _remove_unknown(folder: Path, known: set[str]) -> None:
    """Remove shards and lists that a killed run left and nobody names."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in known:
            path.unlink(missing_ok=True)


def remove_all_but(folder: Path, info: StoreInfo) -> None:
    """Remove shards and lists that a finished store does not name."""
    _remove_unknown(folder, {info.rejects, *(shard.file for shard in info.shards)})
