"""Shards of tar: webdataset's layout, and what img2dataset writes.

The headers of each shard are read once, from front to back; captions and metadata are kept, and
of an image only where its bytes lie. So rows can be visited in any order, resumed anywhere and
shared between any number of processes, and nothing is unpacked to disk.
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from clipkit.data.decode import IMAGE_SUFFIXES
from clipkit.data.table import is_nothing
from clipkit.errors import DataError
from clipkit.packages import default_threads
from clipkit.types import FileSlice, Progress, Reject, Sample

_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


@dataclass
class _Record:
    """The members of one row."""

    image: FileSlice | None = None
    text: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def expand_shards(patterns: str | Sequence[str], root: Path = Path()) -> list[Path]:
    """Return the shards that brace ranges, lists and globs stand for.

    Args:
        patterns: such as `shards/{00000..00127}.tar`, `{train,val}-*.tar`, or several of them.
        root: the folder that they are relative to.

    Returns:
        The files, in the order of the patterns; those of one glob sorted.

    Raises:
        DataError: a shard that is named is not there, or a glob matches nothing; each is named.

    >>> [path.name for path in expand_shards([])]
    []
    """
    found: dict[Path, None] = {}
    missing = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for name in _expand_braces(pattern):
            if any(mark in name for mark in "*?["):
                base = Path(PurePosixPath(name).anchor) if name.startswith("/") else root
                hits = sorted(base.glob(name.lstrip("/")))
            else:
                hits = [root / name] if (root / name).is_file() else []
            if not hits:
                missing.append(str(root / name))
            found.update(dict.fromkeys(hits))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"no shard {', '.join(missing[:3])}{more}")
    return list(found)


def read_webdataset(
    shards: Sequence[Path], *, progress: Progress | None = None
) -> tuple[list[Sample], list[Reject]]:
    """Read the rows of tar shards: members that share a name up to its first dot.

    A row has one image (.jpg, .png, .webp and so on), and of these what there is: `.txt` (a caption
    a line), `.json` (`caption` or `captions` where there is no `.txt`, `label`; the rest is
    metadata) and `.cls` (the label).

    Args:
        shards: tar files, not compressed.
        progress: told how many shards are read, and of how many.

    Returns:
        The samples in the order of the shards, and the rows that cannot be used. Ids are the
        names, with the shard's in front where two shards share a name.

    Raises:
        DataError: a shard is compressed, or is no tar at all.
    """
    samples: list[tuple[str, Sample]] = []
    rejects: list[Reject] = []
    with ThreadPoolExecutor(default_threads()) as pool:
        for done, (shard, read) in enumerate(
            zip(shards, pool.map(_read_shard, shards), strict=True), 1
        ):
            samples += [(shard.name, sample) for sample in read[0]]
            rejects += read[1]
            if progress:
                progress(done, len(shards))
    counts = Counter(sample.id for _, sample in samples)
    return [
        sample if counts[sample.id] == 1 else replace(sample, id=f"{shard}/{sample.id}")
        for shard, sample in samples
    ], rejects


def _read_shard(shard: Path) -> tuple[list[Sample], list[Reject]]:
    rejects: list[Reject] = []
    records: dict[str, _Record] = {}
    for name, offset, content in _members(shard, rejects):
        matched = _NAME.match(name)
        if (
            matched is None
            or PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
        ):
            rejects.append(Reject(name, "member's name cannot be used", str(shard)))
            continue
        key, ending = matched[1], matched[2].lower()
        record = records.setdefault(key, _Record())
        _add(record, ending, shard, offset, content)
    samples = []
    for key, record in records.items():
        sample, reasons = _to_sample(key, record)
        rejects += [Reject(key, reason, str(shard)) for reason in reasons]
        if sample is not None:
            samples.append(sample)
    return samples, rejects


def _members(shard: Path, rejects: list[Reject]) -> Iterator[tuple[str, int, bytes | int]]:
    """Yield name, offset and content of each file; of images the size in place of the content."""
    try:
        with shard.open("rb") as file:
            start = file.read(2)
            if start in _COMPRESSED:
                raise DataError(
                    f"{shard} is compressed by {_COMPRESSED[start]}: images in it cannot be reached"
                    " one by one; decompress the shard"
                )
            length = file.seek(0, 2)
            file.seek(0)
            if not length:
                raise DataError(f"{shard} is empty")
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                while (member := _next(tar, shard, rejects)) is not None:
                    if not member.isfile():
                        if not member.isdir():
                            rejects.append(Reject(member.name, "not a regular file", str(shard)))
                        continue
                    if member.offset_data + member.size > length:
                        rejects.append(Reject(member.name, "shard ends within it", str(shard)))
                        return
                    if member.name.lower().endswith(IMAGE_SUFFIXES):
                        yield member.name, member.offset_data, member.size
                    else:
                        file.seek(member.offset_data)
                        yield member.name, member.offset_data, file.read(member.size)
                    tar.members = []  # type: ignore[attr-defined]  # or they pile up
    except tarfile.ReadError as error:
        raise DataError(f"{shard} is not a tar: {error}") from error
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror}") from error


def _next(tar: tarfile.TarFile, shard: Path, rejects: list[Reject]) -> tarfile.TarInfo | None:
    """Return the next member; a shard that was cut ends there, and that is listed."""
    first = tar.offset == 0
    try:
        return tar.next()
    except tarfile.TarError as error:
        if first:
            raise
        rejects.append(
            Reject(f"{shard.name} byte {tar.offset}", f"shard is cut: {error}", str(shard))
        )
        return None


def _add(record: _Record, ending: str, shard: Path, offset: int, content: bytes | int) -> None:
    """Add one member to its row."""
    if isinstance(content, int):
        if record.image is None:
            record.image = FileSlice(shard, offset, content)
        else:
            record.reasons.append("two images, or the name occurs twice")
    elif ending in ("txt", "caption"):
        try:
            lines = content.decode("utf-8-sig").splitlines()
            record.text += [line for line in lines if line.strip()] or [""]
        except UnicodeDecodeError:
            record.reasons.append("caption is not UTF-8 text")
    elif ending == "json":
        try:
            fields = json.loads(content)
        except ValueError:
            fields = None
        if isinstance(fields, dict):
            record.fields.update(fields)
        else:
            record.reasons.append("json member is not an object")
    elif ending == "cls":
        record.fields["label"] = content.decode("utf-8", errors="replace").strip()


def _to_sample(key: str, record: _Record) -> tuple[Sample | None, list[str]]:
    """Return the sample, or none, and what is wrong with the row or with some of its captions."""
    fields = dict(record.fields)
    told: list[Any] = list(record.text)
    for name in ("caption", "captions"):
        value = fields.pop(name, None)
        if not record.text and value is not None:
            told += value if isinstance(value, list) and value else [value]
    if not record.text and not told and {"caption", "captions"} & record.fields.keys():
        told = [None]
    captions = tuple(str(text).strip() for text in told if not is_nothing(text))
    empty = ["empty caption"] * (len(told) - len(captions))
    if record.image is None:
        return None, [*record.reasons, "no image"]
    if record.reasons or (empty and not captions):
        return None, record.reasons or empty[:1]
    label = fields.pop("label", None)
    label = None if is_nothing(label) else str(label).strip()
    return Sample(key, record.image, captions, label, fields), empty


def _expand_braces(pattern: str) -> list[str]:
    """Return what `{000..012}` and `{a,b}` stand for; a nested brace is left to the inner one."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] for part in parts]
    for at in range(1, len(parts), 2):
        span = re.fullmatch(r"(\d+)\.\.(\d+)", parts[at])
        if span:
            first, last = int(span[1]), int(span[2])
            step = 1 if last >= first else -1
            width = len(span[1])
            choices[at] = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        elif "," in parts[at]:
            choices[at] = parts[at].split(",")
        else:
            choices[at] = ["{" + parts[at] + "}"]
    return ["".join(chosen) for chosen in product(*choices)]
