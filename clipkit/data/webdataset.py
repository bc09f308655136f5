"""Shards of tar: webdataset's layout, and what img2dataset writes.

The headers of each shard are read once, from front to back; captions and metadata are kept, and
of an image only where its bytes lie. So rows can be visited in any order, resumed anywhere and
shared between any number of processes, and nothing is unpacked to disk.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from clipkit.data.decode import IMAGE_SUFFIXES
from clipkit.data.shards import shard_names
from clipkit.data.table import clean_captions, is_nothing
from clipkit.data.texts import caption_lines, parse_object, readable, take_captions
from clipkit.errors import DataError
from clipkit.packages import default_threads
from clipkit.types import FileSlice, Progress, Reject, Sample

_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
_CAPTIONS = ("txt", "caption")
_READ = tuple(f".{ending}" for ending in (*_CAPTIONS, "json", "cls"))


@dataclass
class _Member:
    """A member of a shard.

    Attributes:
        name: as the shard spells it.
        place: where its bytes lie.
        content: the bytes themselves, of text alone.
        fault: why it cannot be used, if it cannot.
    """

    name: str
    place: FileSlice
    content: bytes = b""
    fault: str | None = None


@dataclass
class _Record:
    """The members of one row."""

    image: FileSlice | None = None
    text: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    endings: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


@dataclass
class _Shard:
    """What was read of a shard: its rows by name, and how often the name had occurred before."""

    path: Path
    records: dict[tuple[str, int], _Record] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)

    def reject(self, id_: str, reason: str) -> None:
        self.rejects.append(Reject(readable(id_), reason, str(self.path)))


def read_webdataset(
    shards: Sequence[Path], *, progress: Progress | None = None
) -> tuple[list[Sample], list[Reject]]:
    """Read the rows of tar shards: members that share a name up to its first dot.

    A row has one image (.jpg, .png, .webp and so on), and of these what there is: `.txt` (a caption
    a line), `.json` (`caption` or `captions` where there is no `.txt`, `label`; the rest is
    metadata) and `.cls` (the label, before that in the `.json`).

    Args:
        shards: tar files, not compressed.
        progress: told how many shards are read, and of how many.

    Returns:
        The samples in the order of the shards, and the rows that cannot be used; a shard that was
        cut or damaged is listed once, whatever it held beyond. Ids are the names, with the shard's
        in front where two shards share a name.

    Raises:
        DataError: a shard is empty, or compressed, or is no tar at all.
    """
    samples: list[tuple[str, Sample]] = []
    rejects: list[Reject] = []
    with ThreadPoolExecutor(default_threads()) as pool:
        reading = zip(shard_names(shards), pool.map(_read_shard, shards), strict=True)
        for done, (name, (read, rejected)) in enumerate(reading, 1):
            samples += [(name, sample) for sample in read]
            rejects += rejected
            if progress:
                progress(done, len(shards))
    counts = Counter(sample.id for _, sample in samples)
    return [
        sample if counts[sample.id] == 1 else replace(sample, id=f"{readable(name)}/{sample.id}")
        for name, sample in samples
    ], rejects


def _read_shard(path: Path) -> tuple[list[Sample], list[Reject]]:
    shard = _Shard(path)
    met: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            _check_start(file, path)
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for member in _members(tar, file, path):
                    matched = _NAME.match(member.name)
                    if matched is None:
                        shard.reject(member.name, "member's name cannot be used")
                        continue
                    times = met[member.name.lower()] = met[member.name.lower()] + 1
                    record = shard.records.setdefault((matched[1], times), _Record())
                    _add(record, matched[2].lower(), member)
                _check_end(tar, file, shard)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a tar: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    samples = []
    for (key, times), record in shard.records.items():
        if times > 1:
            record.faults.insert(0, "name occurs twice in its shard")
        sample, reasons = _to_sample(readable(key), record)
        for reason in reasons:
            shard.reject(key, reason)
        if sample is not None:
            samples.append(sample)
    return samples, shard.rejects


def _check_start(file: IO[bytes], path: Path) -> None:
    start = file.read(2)
    if not start:
        raise DataError(f"{path} is empty")
    if start in _COMPRESSED:
        raise DataError(
            f"{path} is compressed by {_COMPRESSED[start]}: images in it cannot be reached one by "
            "one; decompress the shard"
        )
    file.seek(0)


def _members(tar: tarfile.TarFile, file: IO[bytes], path: Path) -> Iterator[_Member]:
    """Yield each file of a tar, up to its end or to where it cannot be read any further."""
    length = path.stat().st_size
    while (info := _next(tar)) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or they pile up
        if info.isdir():
            continue
        member = _Member(info.name, FileSlice(path, info.offset_data, info.size))
        parts = PurePosixPath(info.name)
        if info.offset_data + info.size > length:
            member.fault = "shard ends within it"
        elif not info.isfile() or info.issparse():
            member.fault = "not a regular file"
        elif parts.is_absolute() or ".." in parts.parts:
            member.fault = "member's name cannot be used"
        elif info.name.lower().endswith(_READ):
            file.seek(info.offset_data)
            member.content = file.read(info.size)
        yield member
        if info.offset_data + info.size > length:
            return


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member; `None` at the end, and where the next header is broken."""
    before = tar.offset
    try:
        info = tar.next()
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        tar.offset = before
        return None
    if info is not None and (info.size < 0 or tar.offset < info.offset_data):
        tar.offset = before  # a size that leads back: reading on would never end
        return None
    return info


def _check_end(tar: tarfile.TarFile, file: IO[bytes], shard: _Shard) -> None:
    """List a shard that does not end as a tar does, in blocks of zeros: rows of it are lost.

    Where that is in the middle of a row, the row itself is what is listed.
    """
    records = list(shard.records.values())
    if records and "shard ends within it" in records[-1].faults:
        return
    file.seek(tar.offset)
    rest = file.read(tarfile.BLOCKSIZE)
    fault = "shard is cut" if len(rest) < tarfile.BLOCKSIZE else ""
    while rest and not fault:
        fault = "shard is damaged" if rest.strip(b"\0") else ""
        rest = file.read(1 << 20)
    if not fault:
        return
    if len(records) > 1 and not records[-2].endings <= records[-1].endings:
        records[-1].faults.append(f"{fault} within it")
    else:
        shard.reject(f"{shard.path.name} byte {tar.offset}", fault)


def _add(record: _Record, ending: str, member: _Member) -> None:
    """Add one member to its row."""
    record.endings.add(ending)
    if member.fault:
        record.faults.append(member.fault)
    elif member.name.lower().endswith(IMAGE_SUFFIXES):
        if record.image is not None:
            record.faults.append("two images")
        record.image = member.place
    elif ending in _CAPTIONS:
        try:
            record.text += caption_lines(member.content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            record.faults.append("caption is not UTF-8 text")
    elif ending == "json":
        fields = parse_object(member.content)
        if fields is None:
            record.faults.append("json member is not an object")
        record.fields = fields or {}
    elif ending == "cls":
        try:
            record.label = member.content.decode("utf-8-sig")
        except UnicodeDecodeError:
            record.faults.append("label is not UTF-8 text")


def _to_sample(key: str, record: _Record) -> tuple[Sample | None, list[str]]:
    """Return the sample, or none, and what is wrong with the row or with some of its captions."""
    fields = record.fields
    told = take_captions(fields)
    told = record.text or told
    captions, reasons = clean_captions(told) if told else ((), [])
    if record.image is None:
        record.faults.append("no image")
    if record.faults or (reasons and not captions):
        return None, (record.faults or reasons)[:1]
    label = fields.pop("label", None)
    label = label if is_nothing(record.label) else record.label
    label = None if is_nothing(label) else str(label).strip()
    return Sample(key, record.image, captions, label, fields), reasons
