"""A store from a folder of npy files and metadata, as clip-retrieval writes them."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from clipkit.embed.rows import DTYPES, RESERVED
from clipkit.embed.store import EmbeddingStore, StoreInfo
from clipkit.embed.tables import check_empty, write_tables
from clipkit.embed.to_npy import FOLDERS, METADATA
from clipkit.embed.verify import LENGTH
from clipkit.errors import StoreError
from clipkit.models import DualEncoder, load
from clipkit.packages import file_sha256
from clipkit.types import Progress

SHARD_ROWS = 10_000

_TAKEN = {*RESERVED, "image_path"}


def read_npy(
    folder: str | Path,
    out: str | Path,
    model: str | Path | DualEncoder,
    *,
    normalise: bool = False,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Make a store from `img_emb`, `text_emb` or both, and `metadata`, of such a folder.

    Where both are there, each image is followed by its caption; rows that tell of the same picture
    one after another, with the same embedding, are one image with several captions. Ids are the
    column `id`, else `image_path`, else the number of the row.

    Args:
        folder: what clip-retrieval, `write_npy` or their kin wrote.
        out: the folder of the store, absent or empty.
        model: that made the embeddings; such a folder does not tell.
        normalise: bring the embeddings to length 1; they must have it otherwise.
        progress: told how many rows are done, and of how many.

    Raises:
        StoreError: the files do not belong together, or not to the model, or an embedding is not
            finite or has another length than 1; or `out` holds something.
        ModelError: there is no such model.
    """
    source, target = Path(folder), Path(out)
    check_empty(target)
    files = _find(source)
    rows, dim, dtype = _check(files)
    encoder = model if isinstance(model, DualEncoder) else load(model)
    if encoder.dim != dim:
        raise StoreError(
            f"the embeddings of {source} have {dim} numbers, those of model {encoder.name}"
            f" {encoder.dim}: give the model that made them"
        )
    what = "both" if len(files) == 3 else "images" if "image" in files else "captions"
    info = StoreInfo(
        model={"name": encoder.name, "fingerprint": encoder.fingerprint()},
        preprocessing=asdict(encoder.preprocessing),
        data={"name": source.resolve().name, "fingerprint": _fingerprint(files)},
        what=what,
        dim=dim,
        dtype=dtype,
        shard_rows=SHARD_ROWS,
        input_rows=0,
    )
    return write_tables(target, info, _tables(files, info, rows, normalise, progress))


Files = dict[str, list[Path]]
"""The npy files by kind, and the metadata, in the order of their numbers."""


def _find(folder: Path) -> Files:
    found = {}
    for kind, name in FOLDERS.items():
        if (folder / name).is_dir():
            found[kind] = _numbered(folder / name, "npy")
    if not any(found.values()):
        names = " nor ".join(f"{name}/*.npy" for name in FOLDERS.values())
        raise StoreError(f"{folder} has neither {names}")
    found["metadata"] = _numbered(folder / METADATA, "parquet")
    counts = {name: len(files) for name, files in found.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise StoreError(f"the files of {folder} do not belong together: {told}")
    return found


def _numbered(folder: Path, suffix: str) -> list[Path]:
    def number(path: Path) -> tuple[int, str]:
        digits = re.findall(r"\d+", path.stem)
        return int(digits[-1]) if digits else 0, path.name

    return sorted(folder.glob(f"*.{suffix}"), key=number)


def _check(files: Files) -> tuple[int, int, str]:
    """Return rows, width and precision, once all files agree."""
    rows, shapes = 0, set()
    for at, metadata in enumerate(files["metadata"]):
        try:
            counts = {metadata.name: pq.read_metadata(metadata).num_rows}
            for kind in files.keys() - {"metadata"}:
                array = np.load(files[kind][at], mmap_mode="r")
                if array.ndim != 2 or array.dtype.name not in DTYPES:
                    raise StoreError(
                        f"{files[kind][at]} is {array.dtype} {list(array.shape)}, not float16 or"
                        " float32 [rows, dim]"
                    )
                counts[files[kind][at].name] = len(array)
                shapes.add((array.shape[1], array.dtype.name))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{metadata.parent.parent}: {str(error).splitlines()[0]}") from None
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items()))
            raise StoreError(f"{metadata.parent.parent}: rows differ: {told}")
        rows += counts[metadata.name]
    if len(shapes) > 1:
        told = " and ".join(f"{dim} x {dtype}" for dim, dtype in sorted(shapes))
        raise StoreError(f"the files hold {told}: all must be alike")
    dim, dtype = next(iter(shapes))
    return rows, dim, dtype


def _fingerprint(files: Files) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        for path in files[name]:
            digest.update(f"{name} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _tables(
    files: Files, info: StoreInfo, rows: int, normalise: bool, progress: Progress | None
) -> Iterator[pa.Table]:
    schema = _schema(files["metadata"], info)
    start, before = 0, None
    for at, path in enumerate(files["metadata"]):
        arrays = {
            kind: np.load(files[kind][at], mmap_mode="r") for kind in FOLDERS if kind in files
        }
        place = 0
        for batch in pq.ParquetFile(path).iter_batches(SHARD_ROWS):
            blocks = {
                kind: _good(array[place : place + len(batch)], files[kind][at], place, normalise)
                for kind, array in arrays.items()
            }
            table, before = _rows(batch, blocks, schema, start + place, before)
            yield table
            place += len(batch)
            if progress is not None:
                progress(start + place, rows)
        start += place


def _good(
    block: Float[np.ndarray, "rows dim"], path: Path, place: int, normalise: bool
) -> Float[np.ndarray, "rows dim"]:
    """Return embeddings of length 1.

    Raises:
        StoreError: they are not, or cannot be brought to it.
    """
    lengths = np.linalg.norm(block.astype(np.float32), axis=1)
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        row = place + int(np.flatnonzero(bad)[0])
        raise StoreError(f"{path}: row {row} is zero or not finite ({bad.sum()} such in its block)")
    if normalise:
        unit: np.ndarray = (block.astype(np.float32) / lengths[:, None]).astype(block.dtype)
        return unit
    far = np.flatnonzero(np.abs(lengths - 1) > LENGTH)
    if len(far):
        raise StoreError(
            f"{path}: row {place + far[0]} has length {lengths[far[0]]:.3f}, not 1: say that they"
            " are to be normalised"
        )
    return np.asarray(block)


def _schema(metadata: Sequence[Path], info: StoreInfo) -> pa.Schema:
    """Return the columns of the store: what all files have besides the usual ones, as it is."""
    plain = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(DTYPES[info.dtype], info.dim), nullable=False),
        *(pa.field(name, pa.string()) for name in ("caption", "label", "path")),
    ]
    found = pa.unify_schemas(
        [pq.read_schema(path).remove_metadata() for path in metadata],
        promote_options="permissive",
    )
    more = [field for field in found if field.name not in _TAKEN]
    return pa.schema([*plain, *more])


def _rows(
    batch: pa.RecordBatch,
    blocks: dict[str, Float[np.ndarray, "rows dim"]],
    schema: pa.Schema,
    start: int,
    before: tuple[str, bytes] | None,
) -> tuple[pa.Table, tuple[str, bytes] | None]:
    """Return the rows of a store that a batch of pairs gives, and which image came last."""
    count = len(batch)
    paths = _texts(batch, "image_path") or [None] * count
    ids = _texts(batch, "id") or paths
    names = [id or str(start + row) for row, id in enumerate(ids)]
    order: list[tuple[str, int]] = []
    for row in range(count):
        if "image" in blocks:
            image = names[row], blocks["image"][row].tobytes()
            if "text" not in blocks or image != before:
                order.append(("image", row))
            before = image
        if "text" in blocks:
            order.append(("text", row))
    rows = pa.array([row for _, row in order], pa.int64())
    kind = schema.field("embedding").type
    flat = np.stack([blocks[kind][row] for kind, row in order]) if order else np.zeros((0, 0))
    flat = flat.astype(kind.value_type.to_pandas_dtype()).reshape(-1)
    columns: dict[str, Any] = {
        "id": [names[row] for _, row in order],
        "kind": [kind for kind, _ in order],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size),
        "caption": _taken(_texts(batch, "caption"), order),
        "label": _taken(_texts(batch, "label"), order),
        "path": _taken([path if path and Path(path).suffix else None for path in paths], order),
    }
    taken = batch.take(rows)
    for field in schema:
        if field.name not in columns:
            there = field.name in batch.schema.names
            columns[field.name] = taken[field.name] if there else pa.nulls(len(order))
    arrays = [
        columns[f.name] if f.name == "embedding" else _as(columns[f.name], f.type) for f in schema
    ]
    return pa.table(arrays, schema=schema), before


def _as(values: Any, kind: pa.DataType) -> Any:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _taken(values: list[Any] | None, order: list[tuple[str, int]]) -> list[Any]:
    return [None if values is None else values[row] for _, row in order]


def _texts(batch: pa.RecordBatch, name: str) -> list[str | None] | None:
    """Return a column as texts, or `None` where there is none."""
    if name not in batch.schema.names:
        return None
    return [None if value is None else str(value) for value in batch.column(name).to_pylist()]
