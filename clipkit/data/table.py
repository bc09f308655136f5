"""Tables of images and captions: csv, tsv, JSON lines, or rows written into a manifest."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipkit.data.decode import file_problem
from clipkit.data.delimited import read_delimited
from clipkit.data.texts import parse_object, readable, split_lines
from clipkit.errors import DataError, did_you_mean
from clipkit.types import Reject, Sample

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")

# For each part of a sample the column names that are recognised, the likeliest first.
_RECOGNISED = {
    "image": (
        "image",
        "file_name",
        "filename",
        "filepath",
        "path",
        "image_path",
        "img",
        "image_name",
        "image_file",
        "file_path",
        "file",
        "jpg",
        "png",
        "webp",
    ),
    "caption": (
        "caption",
        "captions",
        "text",
        "title",
        "sentence",
        "description",
        "comment",
        "raw",
        "txt",
    ),
    "label": ("label", "class", "category", "labels", "fine_label", "cls"),
    "id": ("id", "image_id", "key", "__key__"),
}
NOTHING = {"", "nan", "none", "null"}

Row = Mapping[str, Any]
Keep = Callable[[Row, str], bool]


@dataclass(frozen=True)
class Columns:
    """Which columns hold the parts of a sample; for `None` the usual names are looked for."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    id: str | None = None


@dataclass
class _Table:
    """A table as it was read: its columns, its rows with their places, and the broken lines."""

    columns: list[str]
    rows: list[tuple[str, Row]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def read_table(
    path: Path,
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    keep: Keep | None = None,
) -> tuple[list[Sample], list[Reject]]:
    """Read a csv, tsv or JSON lines file; rows with the same image become one sample.

    Args:
        path: UTF-8, with or without a byte order mark; the first line of a csv or tsv names the
            columns. The separator is that of comma, semicolon, tab and bar which parts it most.
        columns: which columns hold what.
        root: what image paths are relative to; the file's own folder when `None`.
        keep: given a row and its image's name, whether the row is wanted.

    Returns:
        The samples in the order of their first rows, and the rows that cannot be used.

    Raises:
        DataError: the file cannot be read as a table, or has no column of images.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path} is not one of {', '.join(TABLE_SUFFIXES)}")
    lines = _read_lines(path)
    table = _read_json(lines, path) if path.suffix.lower() == ".jsonl" else _read_csv(lines, path)
    return _to_samples(table, str(path), columns or Columns(), root or path.parent, keep)


def read_rows(
    rows: Sequence[Row],
    *,
    where: str,
    root: Path,
    columns: Columns | None = None,
    keep: Keep | None = None,
) -> tuple[list[Sample], list[Reject]]:
    """Read rows that were written into a manifest; otherwise as `read_table`."""
    table = _Table(list(dict.fromkeys(key for row in rows for key in row)))
    table.rows = [(f"{where} row {number}", row) for number, row in enumerate(rows, 1)]
    return _to_samples(table, where, columns or Columns(), root, keep)


def is_nothing(value: object) -> bool:
    """Return whether a caption or label is none at all: empty, `None`, or what spells that."""
    return value is None or str(value).strip().casefold() in NOTHING


def clean_captions(value: object) -> tuple[tuple[str, ...], list[str]]:
    """Return the captions that a value holds, and for each that is none the reason.

    Args:
        value: a caption, or a list of them.
    """
    told = list(value) if isinstance(value, list | tuple) else [value]
    captions, reasons = [], []
    for text in told or [None]:
        if is_nothing(text):
            reasons.append("empty caption")
        elif not isinstance(text, str | int | float):
            reasons.append("caption is not text")
        elif "\0" in str(text) or readable(str(text)) != str(text):
            reasons.append("caption has characters that are no text")
        else:
            captions.append(str(text).strip())
    return tuple(captions), reasons


def inside(root: Path, relative: str) -> Path | None:
    """Return `root / relative`, or `None` when `..` would lead out of the root.

    Symbolic links are not followed for this: whoever owns the folder may have put them there.
    """
    # Each row of a table comes here: by strings it takes half as long as by paths.
    joined = os.path.normpath(os.path.join(root, relative))  # noqa: PTH118
    tail = os.path.normpath(relative)
    stays = not tail.startswith((os.sep, os.pardir))
    if stays or Path(os.path.abspath(joined)).is_relative_to(os.path.abspath(root)):  # noqa: PTH100
        return Path(joined)
    return None


def image_file(name: str, root: Path) -> Path | str:
    """Return the file that a row names, or the reason why it names none.

    Args:
        name: of a file; where it is relative, it starts from the root and may not lead out of it.
        root: a folder.
    """
    if not name:
        return "no image named"
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        return "image is an address, not a file"
    file = Path(name) if os.path.isabs(name) else inside(root, name)  # noqa: PTH117
    return file if file is not None else "path leads out of the root folder"


def _read_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = split_lines(file.read())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); "
            "save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} is empty")
    return lines


def _read_json(lines: list[str], path: Path) -> _Table:
    table = _Table([])
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        row = parse_object(line)
        if row is not None:
            table.rows.append((place, row))
        else:
            table.rejects.append(Reject(f"line {number}", "not a JSON object", place))
    table.columns = list(dict.fromkeys(key for _, row in table.rows for key in row))
    return table


def _read_csv(lines: list[str], path: Path) -> _Table:
    columns, records = read_delimited(lines)
    if not columns:
        raise DataError(f'{path} has a stray quote (") in the line that names its columns')
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} names a column twice: {', '.join(map(repr, columns))}")
    table = _Table(columns)
    for number, fields in records:
        place = f"{path} line {number}"
        if isinstance(fields, str):
            table.rejects.append(Reject(f"line {number}", fields, place))
        else:
            table.rows.append((place, dict(zip(columns, fields, strict=True))))
    return table


def _to_samples(
    table: _Table, where: str, columns: Columns, root: Path, keep: Keep | None
) -> tuple[list[Sample], list[Reject]]:
    names = resolve_columns(columns, table.columns, where)
    building = _Samples(names, root, list(table.rejects))
    for place, row in table.rows:
        name = "" if is_nothing(row.get(names["image"])) else str(row[names["image"]]).strip()
        if keep is None or keep(row, name):
            building.add(place, name, row)
    return building.finish(), building.rejects


def resolve_columns(columns: Columns, there: Iterable[str], where: str) -> dict[str, str]:
    """Return the column of each part, from what was asked for or else from the usual names.

    Raises:
        DataError: a column that was asked for is not there, or none looks like images.
    """
    names = list(there)
    listed = f"its columns are {', '.join(map(repr, names)) or 'none'}"
    lowered = {name.lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for part, recognised in _RECOGNISED.items():
        asked = getattr(columns, part)
        if asked is not None and asked not in names:
            near = did_you_mean(asked, names)
            raise DataError(f"{where} has no column {asked!r} for {part}; {listed}{near}")
        usual = next((lowered[name] for name in recognised if name in lowered), None)
        if chosen := asked or usual:
            found[part] = chosen
    if "image" not in found:
        raise DataError(
            f"{where} has no column of images that is recognised; {listed}; "
            f"name one (image_column=...) or call it {' or '.join(_RECOGNISED['image'][:2])}"
        )
    return found


class _Samples:
    """Collects rows into samples, those of one image into one."""

    def __init__(self, names: Mapping[str, str], root: Path, rejects: list[Reject]) -> None:
        self.names = names
        self.root = root
        self.rejects = rejects
        self.files: dict[str, Path | str] = {}
        self.samples: dict[str, tuple[str, Path, list[str], str | None, Row]] = {}
        self.ids: dict[str, str] = {}

    def add(self, place: str, name: str, row: Row) -> None:
        """Add one row, or list it with the reason why it cannot be used."""
        id_ = readable(self._text(row, "id") or name)
        if name not in self.files:
            self.files[name] = self._find(name)
        file = self.files[name]
        if isinstance(file, str):
            return self._reject(id_ or " ".join(place.split(" ")[-2:]), file, place)
        told = self.names.get("caption")
        captions, reasons = clean_captions(row.get(told)) if told else ((), [])
        if reasons and not captions:
            return self._reject(id_, reasons[0], place)
        for reason in reasons:
            self._reject(id_, reason, place)
        label = self._text(row, "label")
        if name in self.samples:
            if label != self.samples[name][3]:
                return self._reject(id_, "label differs from an earlier row of the image", place)
            self.samples[name][2].extend(captions)
            return None
        if self.ids.setdefault(id_, name) != name:
            return self._reject(id_, "id is that of another image", place)
        metadata = {key: value for key, value in row.items() if key not in self.names.values()}
        self.samples[name] = (id_, file, list(captions), label, metadata)
        return None

    def finish(self) -> list[Sample]:
        """Return the samples in the order of their first rows."""
        return [
            Sample(id_, file, tuple(captions), label, metadata)
            for id_, file, captions, label, metadata in self.samples.values()
        ]

    def _reject(self, id_: str, reason: str, place: str) -> None:
        self.rejects.append(Reject(id_, reason, place))

    def _find(self, name: str) -> Path | str:
        """Return the image's file, or the reason why there is none."""
        file = image_file(name, self.root)
        return file if isinstance(file, str) else file_problem(file) or file

    def _text(self, row: Row, part: str) -> str | None:
        value = row.get(self.names[part]) if part in self.names else None
        return None if is_nothing(value) else str(value).strip()
