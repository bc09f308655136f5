"""What the cells of a row hold: its image, its captions, its id; for one row and for many."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from clipkit.data.table import NOTHING, image_file, is_nothing
from clipkit.errors import DataError
from clipkit.types import ImageSource

Flags = Bool[np.ndarray, " rows"]


def image_source(value: Any, root: Path) -> ImageSource | str:
    """Return the image that a cell holds, or the reason why there is none.

    Args:
        value: a path, bytes, or a mapping of `bytes` and `path` as `datasets` has it.
        root: what a relative path starts from; it may not lead out of it.
    """
    if isinstance(value, Mapping):
        content = value.get("bytes")
        value = content if content is not None else value.get("path")
    if isinstance(value, bytes):
        return value if value else "file is empty"
    return image_file("" if is_nothing(value) else str(value).strip(), root)


def row_id(number: int, row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a row's id: its own, else the image's name, else its number."""
    if "id" in names and not is_nothing(row.get(names["id"])):
        return str(row[names["id"]]).strip()
    value = row.get(names["image"])
    return value.strip() if isinstance(value, str) and value.strip() else str(number)


def is_text(kind: pa.DataType) -> bool:
    """Say whether an Arrow type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def as_text(cells: pa.Array) -> pa.Array:
    """Return cells as strings, whatever they hold."""
    try:
        return cells.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # bytes, say, or structs
        texts = [None if value is None else str(value) for value in cells.to_pylist()]
        return pa.array(texts, pa.string())


def check_text(batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
    """Return a batch as it is; Arrow itself does not look whether its text is UTF-8.

    Raises:
        DataError: a column is damaged, or holds text in another encoding.
    """
    for name, cells in zip(batch.schema.names, batch.columns, strict=True):
        try:
            cells.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{where}: column {name!r} cannot be read: {error}") from error
    return batch


def plain_images(cells: pa.Array, where: str, column: str) -> Flags:
    """Return which cells surely hold an image; the others must be looked at one by one.

    Raises:
        DataError: the column is of a type that holds no images.
    """
    kind = cells.type
    if pa.types.is_struct(kind):
        fields = {item.name for item in kind}
        if fields & {"bytes", "path"}:
            return np.asarray(_filled(cells)) if "bytes" in fields else _none(cells)
    elif is_text(kind):
        names = pc.utf8_trim_whitespace(cells)
        odd = pc.match_substring_regex(names, r"^/|://|\.\.|^(?i:nan|none|null)?$")
        return np.asarray(pc.invert(odd).fill_null(False))
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return np.asarray(pc.greater(pc.binary_length(cells), 0).fill_null(False))
    elif pa.types.is_null(kind):
        return _none(cells)
    raise DataError(
        f"{where}: column {column!r} holds {kind}; an image is a path, bytes, or a struct of"
        " bytes and path"
    )


def plain_captions(cells: pa.Array) -> Flags:
    """Return which cells hold a caption, or captions, and nothing that is none."""
    kind = cells.type
    if is_text(kind):
        plain = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
        nothing = pc.is_in(plain, value_set=pa.array(sorted(NOTHING), type=kind))
        odd = pc.or_(nothing, pc.match_substring(plain, "\0"))
        return np.asarray(pc.and_(cells.is_valid(), pc.invert(odd)).fill_null(False))
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_text(kind.value_type):
        lengths = np.asarray(pc.list_value_length(cells).fill_null(0))
        owner = np.asarray(pc.list_parent_indices(cells))
        bad = owner[~plain_captions(pc.list_flatten(cells))]
        flawed = np.bincount(bad, minlength=len(cells))[: len(cells)]
        flags: Flags = (lengths > 0) & (flawed == 0)
        return flags
    return _none(cells)  # numbers and the like


def _filled(cells: pa.Array) -> pa.Array:
    """Return which structs hold bytes."""
    held = cells.field("bytes")
    if pa.types.is_null(held.type):
        return pa.array(_none(cells))
    return pc.and_(cells.is_valid(), pc.greater(pc.binary_length(held), 0)).fill_null(False)


def _none(cells: pa.Array) -> Flags:
    return np.zeros(len(cells), dtype=bool)
