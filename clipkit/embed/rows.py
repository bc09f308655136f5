"""The rows of a store: which there are, and the parquet columns that they have."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from clipkit.data.columnar import ColumnarSamples
from clipkit.errors import DataError
from clipkit.types import Sample

WHATS = ("images", "captions", "both")

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
"""Precisions that embeddings can be stored in."""

RESERVED = ("id", "kind", "embedding", "caption", "label", "path", "sha256")


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of a store is made from: a sample's image, or one of its captions.

    Attributes:
        sample: the row of the data set.
        kind: "image" or "text".
        text: the caption that is encoded; for an image, the first of its captions or `None`.
        sha256: in hex, of the image as it is stored, or of the caption.
    """

    sample: Sample
    kind: Literal["image", "text"]
    text: str | None
    sha256: str


def build_schema(samples: Sequence[Sample], *, dim: int, dtype: str) -> pa.Schema:
    """Return the columns of a store; metadata that is not of one plain type becomes JSON text.

    A table on disk is asked for its types; other samples are looked at one by one, and of their
    metadata only the kinds are remembered.
    """
    columns = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(DTYPES[dtype], dim), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("label", pa.string()),
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
    known = samples.metadata_types() if isinstance(samples, ColumnarSamples) else None
    if known is None:
        types = {key: _joint_type(kinds) for key, kinds in _kinds(samples).items()}
    else:
        types = {key: _plain_type(kind) for key, kind in known.items()}
    columns += [pa.field(_column(key), types[key]) for key in sorted(types)]
    return pa.schema(columns)


def build_table(
    rows: Sequence[Row], embeddings: Float[np.ndarray, "rows dim"], schema: pa.Schema
) -> pa.Table:
    """Put rows and their embeddings into the columns of a store.

    Raises:
        DataError: metadata is not of the type that it was when the columns were chosen.
    """
    kind = schema.field("embedding").type
    flat = embeddings.astype(kind.value_type.to_pandas_dtype()).reshape(-1)
    columns: dict[str, Any] = {
        "id": [row.sample.id for row in rows],
        "kind": [row.kind for row in rows],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size),
        "caption": [row.text for row in rows],
        "label": [row.sample.label for row in rows],
        "path": [path_of(row.sample) for row in rows],
        "sha256": [row.sha256 for row in rows],
    }
    named = {_column(key): key for row in rows for key in row.sample.metadata}
    for field in schema:
        if field.name not in RESERVED:
            key = named.get(field.name, field.name)
            values = [row.sample.metadata.get(key) for row in rows]
            if field.type == pa.string():
                values = [v if v is None or isinstance(v, str) else as_json(v) for v in values]
            columns[field.name] = values
    arrays = [_cells(columns[field.name], field) for field in schema]
    return pa.table(arrays, schema=schema)


def shard_bytes(table: pa.Table) -> bytes:
    """Return the parquet file of a shard."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["kind", "label"])
    return buffer.getvalue()


def path_of(sample: Sample) -> str | None:
    """Return the path of a sample's image, where that is a file."""
    return str(sample.image) if isinstance(sample.image, Path) else None


def as_json(value: Any) -> str:
    """Write any value as JSON; what JSON does not know is written as Python does."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _cells(values: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise DataError(f"column {field.name!r} changed while it was read: {error}") from error


def _column(key: str) -> str:
    """Return the column of a metadata key; those that clipkit names itself are taken."""
    return f"metadata_{key}" if key in RESERVED else key


def _kinds(samples: Sequence[Sample]) -> dict[str, set[str]]:
    """Return of which kinds the values of each metadata key are."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        for key, value in sample.metadata.items():
            kinds = found.setdefault(key, set())
            if value is not None:
                kinds.add(_kind(value))
    return found


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if abs(value) < 2**63 else "float"
    return type(value).__name__


def _joint_type(kinds: set[str]) -> pa.DataType:
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"int"}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {"int", "float"} else pa.string()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return what a column of a table becomes."""
    if pa.types.is_boolean(kind) or pa.types.is_uint64(kind):
        return kind
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(kind) else pa.string()
