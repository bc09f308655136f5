"""A folder of pseudo-labels: what was labelled, what was left out, and a manifest to train on.

labels.parquet      image, id, label, confidence, the next label and its confidence, given
left_out.parquet    the same of the images that got no label, with the reason
manifest.yaml       names the first; `load_data` takes it
label.json          how the labels came about, and how many there are
sheets/             a contact sheet of each label, where they were drawn

Paths of images are absolute: the folder may be moved, the images may not. Images that are no files
(those of parquet and tar) are copied into labels.parquet as they are stored.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image

from clipkit.data.hashing import stored_bytes
from clipkit.data.manifest import write_manifest
from clipkit.data.texts import readable
from clipkit.errors import DataError
from clipkit.types import ImageSource

FORMAT = 1
LABELS = "labels.parquet"
LEFT_OUT = "left_out.parquet"
MANIFEST = "manifest.yaml"
ABOUT = "label.json"
SHEETS = "sheets"

ROWS = 1000
"""Rows held at a time; their images are with them where these are no files."""

_ANSWER: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("label", pa.string()),
    ("confidence", pa.float32()),
    ("second", pa.string()),
    ("second_confidence", pa.float32()),
]
_STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of one of the two tables.

    Attributes:
        id: of the image.
        image: undecoded; `None` for a row that has none.
        label: the likeliest, if any.
        confidence: its probability.
        second: the next label.
        second_confidence: its probability.
        given: whether the label is the data's own, which nobody guessed.
        reason: why the image is left out; empty where it is not.
    """

    id: str
    image: ImageSource | None
    label: str | None = None
    confidence: float | None = None
    second: str | None = None
    second_confidence: float | None = None
    given: bool = False
    reason: str = ""


def is_pseudo_folder(folder: Path) -> bool:
    """Say whether a folder holds pseudo-labels."""
    return (folder / ABOUT).is_file() and (folder / LABELS).is_file()


def check_pseudo_folder(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        DataError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name a folder for the labels")
    if folder.is_dir() and any(folder.iterdir()) and not is_pseudo_folder(folder):
        raise DataError(f"{folder} holds files that are no labels: choose another folder")


def write_tables(folder: Path, answers: Iterable[Answer], *, files: bool) -> None:
    """Write the two tables into a folder that is there: what has a reason was left out.

    Args:
        folder: what gets them.
        answers: in the order of the data. The image of one that is left out is not copied.
        files: whether the images of all others are files.
    """
    image = ("image", pa.string() if files else _STORED)
    labels = pa.schema([image, *_ANSWER, ("given", pa.bool_())])
    left_out = pa.schema([("image", pa.string()), *_ANSWER, ("reason", pa.string())])
    with _table(folder / LABELS, labels) as keep, _table(folder / LEFT_OUT, left_out) as leave:
        for one in answers:
            if one.reason:
                leave({**_row(one, files=True), "reason": one.reason})
            else:
                keep(_row(one, files=files))


def write_about(folder: Path, about: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write the manifest, and how the labels came about.

    Args:
        folder: what gets them.
        about: for `label.json`.
        manifest: name, title and so on; where the table is, is added.
    """
    source = {"kind": "table", "path": LABELS}
    columns = {"image": "image", "label": "label", "id": "id"}
    write_manifest(folder / MANIFEST, {**manifest, "source": source, "columns": columns})
    text = json.dumps({"format": FORMAT, **about}, indent=2, ensure_ascii=False) + "\n"
    (folder / ABOUT).write_text(text, encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """Read `label.json`.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise DataError(f"{path} has format {about['format']!r}; this clipkit reads {FORMAT}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}") from None
    return dict(about)


def has_text_path(image: ImageSource | None) -> bool:
    """Say whether an image can be written into a table: one is no file, or its path is text."""
    return not isinstance(image, Path) or readable(str(image)) == str(image)


def _row(one: Answer, *, files: bool) -> dict[str, Any]:
    path = str(_absolute(one.image)) if isinstance(one.image, Path) else None
    image: Any = path if path is None else readable(path)
    if not files:
        image = {"bytes": _stored(one.image) if path is None else None, "path": path}
    return {
        "image": image,
        "id": one.id,
        "label": one.label,
        "confidence": one.confidence,
        "second": one.second,
        "second_confidence": one.second_confidence,
        "given": one.given,
    }


def _absolute(path: Path) -> Path:
    """Return a path from the root; symbolic links are left as they are."""
    return Path(os.path.normpath(path.absolute()))


def _stored(image: ImageSource | None) -> bytes | None:
    """Return an image as it is stored; one that is decoded already as PNG."""
    if isinstance(image, Image):
        content = BytesIO()
        image.save(content, "PNG")
        return content.getvalue()
    return None if image is None else stored_bytes(image)


@contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give what adds a row to a table."""
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as writer:

        def write() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def add(row: dict[str, Any]) -> None:
            rows.append(row)
            if len(rows) == ROWS:
                write()

        yield add
        write()
