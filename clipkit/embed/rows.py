"""The rows of a store: which there are, and the parquet columns that they have."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from clipkit.data.dataset import Dataset
from clipkit.types import Sample

WHATS = ("images", "captions", "both")

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
"""Precisions that embeddings can be stored in."""

RESERVED = ("id", "kind", "embedding", "caption", "label", "path")


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of a store is made from: a sample's image, or one of its captions.

    Attributes:
        sample: the row of the data set.
        kind: "image" or "text".
        text: the caption that is encoded; for an image, the first of its captions or `None`.
    """

    sample: Sample
    kind: Literal["image", "text"]
    text: str | None


class ImageRows(Sequence[Row]):
    """The images of a data set as rows, read when they are asked for.

    Args:
        data: what may read its samples from a disk.
    """

    def __init__(self, data: Dataset) -> None:
        """Read nothing yet."""
        self._data = data

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._data)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        """Read one row, or some."""
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        return Row(self._data[at], "image", None)


def list_rows(data: Dataset, what: str) -> list[Row]:
    """Return the rows in the order of the data: each image, followed by its captions."""
    return [row for sample in data for row in _rows_of(sample, what)]


def _rows_of(sample: Sample, what: str) -> Iterator[Row]:
    if what != "captions":
        yield Row(sample, "image", sample.captions[0] if sample.captions else None)
    if what != "images":
        for text in sample.captions:
            yield Row(sample, "text", text)


def build_schema(data: Dataset, *, dim: int, dtype: str) -> pa.Schema:
    """Return the columns of a store; metadata that is not of one plain type becomes JSON text."""
    columns = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(DTYPES[dtype], dim), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("label", pa.string()),
        pa.field("path", pa.string()),
    ]
    for key in sorted({key for sample in data for key in sample.metadata}):
        values = [sample.metadata.get(key) for sample in data]
        columns.append(pa.field(_column(key), _plain_type(values)))
    return pa.schema(columns)


def build_table(
    rows: Sequence[Row], embeddings: Float[np.ndarray, "rows dim"], schema: pa.Schema
) -> pa.Table:
    """Put rows and their embeddings into the columns of a store."""
    kind = schema.field("embedding").type
    flat = embeddings.astype(kind.value_type.to_pandas_dtype()).reshape(-1)
    columns: dict[str, Any] = {
        "id": [row.sample.id for row in rows],
        "kind": [row.kind for row in rows],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size),
        "caption": [row.text for row in rows],
        "label": [row.sample.label for row in rows],
        "path": [_path(row.sample) for row in rows],
    }
    named = {_column(key): key for row in rows for key in row.sample.metadata}
    for field in schema:
        if field.name not in RESERVED:
            key = named.get(field.name, field.name)
            values = [row.sample.metadata.get(key) for row in rows]
            if field.type == pa.string():
                values = [v if v is None or isinstance(v, str) else _json(v) for v in values]
            columns[field.name] = values
    return pa.table(
        [pa.array(columns[f.name], f.type) if f.name != "embedding" else columns[f.name]
         for f in schema],
        schema=schema,
    )  # fmt: skip


def _column(key: str) -> str:
    """Return the column of a metadata key; those that clipkit names itself are taken."""
    return f"metadata_{key}" if key in RESERVED else key


def _plain_type(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(abs(v) < 2**63 for v in values if v is not None):
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _path(sample: Sample) -> str | None:
    return str(sample.image) if isinstance(sample.image, Path) else None
