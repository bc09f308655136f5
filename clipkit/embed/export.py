"""From a data set to a store of embeddings; run again after a kill, it goes on where it was."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.rejects import Rejects
from clipkit.embed.rows import DTYPES, WHATS, Row, build_schema, build_table, list_rows
from clipkit.embed.store import INFO, REJECTS, EmbeddingStore, Shard, StoreInfo
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, DataError, StoreError, did_you_mean
from clipkit.models import DualEncoder, load
from clipkit.packages import file_sha256, replace_file
from clipkit.types import Progress, Reject

_REJECTS_SCHEMA = pa.schema(
    [("id", pa.string()), ("reason", pa.string()), ("where", pa.string()), ("row", pa.int64())]
)
_READING = -1  # `row` of a reject that reading the data set gave


def embed(
    model: str | Path | DualEncoder,
    data: str | Path | Dataset,
    out: str | Path,
    *,
    what: str = "images",
    shard_rows: int = 10_000,
    dtype: str = "float32",
    batch_size: int | None = None,
    max_rejected: float = 0.01,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Encode a whole data set into a store.

    Killed at any moment and run again, it goes on after the last shard that was written; a store
    that is complete is returned at once.

    Args:
        model: what `clipkit.load` takes, or a model.
        data: what `load_data` takes.
        out: the folder of the store; absent, empty, or begun by the same call.
        what: "images", "captions" or "both".
        shard_rows: rows of the input that one shard covers.
        dtype: "float32" or "float16".
        batch_size: images a forward pass; what suits the device when `None`.
        max_rejected: largest share of rows that may be unusable; one row always may.
        progress: told how many rows are done, and of how many.

    Raises:
        ConfigError: for an option that cannot be used.
        DataError: when the data cannot be read, or nothing in it can be embedded.
        StoreError: when `out` holds something else, or a store of other inputs.

    Example:
        >>> store = embed("starter", "photos/", "store/")  # doctest: +SKIP
    """
    _check_options(what, dtype, shard_rows)
    folder = Path(out)
    if folder.is_file():
        raise StoreError(f"{folder} is a file; name a folder for the store")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INFO).is_file():
        raise StoreError(f"{folder} holds files that are no embedding store: name another folder")
    dataset = load_data(data)
    rows = list_rows(dataset, what)
    if not rows:
        raise DataError(f"{dataset.name} has no captions to embed")
    encoder = model if isinstance(model, DualEncoder) else load(model)
    info = StoreInfo(
        model={"name": encoder.name, "fingerprint": encoder.fingerprint()},
        preprocessing=asdict(encoder.preprocessing),
        data={"name": dataset.name, "fingerprint": dataset.fingerprint()},
        what=what,
        dim=encoder.dim,
        dtype=dtype,
        shard_rows=shard_rows,
        input_rows=len(rows) + len(dataset.rejects),
    )
    return fill_store(
        folder,
        info,
        rows,
        build_schema(dataset, dim=info.dim, dtype=dtype),
        partial(_encode, encoder, batch_size=batch_size),
        rejects=Rejects(max_rejected, dataset.rejects),
        progress=progress,
    )


Encoded = tuple[Float[np.ndarray, "rows dim"], list[int], list[tuple[int, str]]]
"""Embeddings, the places of the rows that they belong to, and places with a reason."""


def fill_store(
    folder: Path,
    info: StoreInfo,
    rows: Sequence[Row],
    schema: pa.Schema,
    encode: Callable[[Sequence[Row], Progress | None], Encoded],
    *,
    rejects: Rejects,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Write the shards that a store lacks, and say in its `store.json` that it is complete.

    Args:
        folder: of the store.
        info: what the store is to hold; nothing of it is done yet.
        rows: all rows of the store, in their order; sliced shard by shard.
        schema: the columns of the store.
        encode: called with the rows of a shard, and with what to tell about its progress.
        rejects: what reading the data set gave, and how many there may be; the others are added.
        progress: told how many rows are done, and of how many.

    Raises:
        StoreError: when the folder holds a store of other inputs.
        RejectedError: when too many rows cannot be used.
    """
    read = len(rejects)
    places = [_READING] * read
    info, kept = _resume(folder, info)
    if info.complete:
        return EmbeddingStore(folder)
    for reject, place in kept:
        rejects.add(reject)
        places.append(place)
    start = sum(shard.covers for shard in info.shards)
    while start < len(rows):
        share = rows[start : start + info.shard_rows]
        embeddings, good, errors = encode(share, _offset(progress, start, len(rows)))
        for at, reason in errors:
            rejects.add(Reject(share[at].sample.id, reason))
            places.append(start + at)
        start += len(share)
        rejects.check(start + read, final=start == len(rows))
        table = build_table([share[at] for at in good], embeddings, schema)
        _write_shard(folder, info, table, covers=len(share))
        _write_rejects(folder, rejects.rows, places)
        info.rejected = len(rejects)
        info.complete = start == len(rows)
        info.write(folder)
    return EmbeddingStore(folder)


def _check_options(what: str, dtype: str, shard_rows: int) -> None:
    if what not in WHATS:
        raise ConfigError(f"what: {what!r} is unknown{did_you_mean(what, WHATS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: {dtype!r} is unknown{did_you_mean(dtype, DTYPES)}")
    if shard_rows < 1:
        raise ConfigError(f"shard_rows must be at least 1, not {shard_rows}")


def _resume(folder: Path, info: StoreInfo) -> tuple[StoreInfo, list[tuple[Reject, int]]]:
    """Return what a store holds already, once it is known to be of the same inputs.

    Shards that `store.json` does not list, and those after one that is missing or changed, are made
    again.
    """
    if not (folder / INFO).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        info.write(folder)
        return info, []
    found = StoreInfo.read(folder)
    for name in ("model", "data", "what", "dtype", "shard_rows"):
        mine, theirs = getattr(info, name), getattr(found, name)
        if name in ("model", "data"):
            mine, theirs = mine["fingerprint"], theirs["fingerprint"]
        if mine != theirs:
            raise StoreError(
                f"{folder} holds a store with another {name} ({theirs}, not {mine}):"
                " name another folder, or delete this one"
            )
    whole: list[Shard] = []
    for shard in found.shards:
        path = folder / shard.file
        if not path.is_file() or file_sha256(path) != shard.sha256:
            break
        whole.append(shard)
    found.complete = found.complete and len(whole) == len(found.shards)
    found.shards = whole
    found.rows = sum(shard.rows for shard in whole)
    done = sum(shard.covers for shard in whole)
    return found, _read_rejects(folder, done) if whole else []


def _encode(
    model: DualEncoder,
    rows: Sequence[Row],
    progress: Progress | None,
    *,
    batch_size: int | None,
) -> Encoded:
    """Encode the rows of a shard; return embeddings, their places, and places with a reason."""
    images = [at for at, row in enumerate(rows) if row.kind == "image"]
    texts = [at for at, row in enumerate(rows) if row.kind == "text"]
    embeddings = np.zeros((len(rows), model.dim), np.float32)
    features, kept, errors = encode_images(
        model, [rows[at].sample.image for at in images], batch_size=batch_size, progress=progress
    )
    embeddings[[images[at] for at in kept]] = features.numpy()
    captions = [rows[at].text or "" for at in texts]
    embeddings[texts] = encode_texts(
        model, captions, progress=_offset(progress, len(images), None)
    ).numpy()
    bad = [(images[at], reason) for at, reason in errors]
    good = sorted({*range(len(rows))} - {at for at, _ in bad})
    return embeddings[good], good, bad


def _offset(progress: Progress | None, start: int, total: int | None) -> Progress | None:
    """Count on from what is done already."""
    if progress is None:
        return None
    return lambda done, of: progress(start + done, total if total is not None else of)


def _write_shard(folder: Path, info: StoreInfo, table: pa.Table, *, covers: int) -> None:
    name = f"shard-{len(info.shards):05d}.parquet"
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["kind", "label"])
    replace_file(folder / name, buffer.getvalue())
    info.shards.append(Shard(name, len(table), covers, file_sha256(folder / name)))
    info.rows += len(table)


def _write_rejects(folder: Path, rejects: Sequence[Reject], places: Sequence[int]) -> None:
    columns = [
        [reject.id for reject in rejects],
        [reject.reason for reject in rejects],
        [reject.where for reject in rejects],
        list(places),
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _REJECTS_SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=_REJECTS_SCHEMA), buffer)
    replace_file(folder / REJECTS, buffer.getvalue())


def _read_rejects(folder: Path, done: int) -> list[tuple[Reject, int]]:
    """Return the rows of finished shards that could not be embedded."""
    try:
        table = pq.read_table(folder / REJECTS)
    except (OSError, pa.ArrowException):
        raise StoreError(f"{folder / REJECTS} is missing or damaged: delete {folder}") from None
    return [
        (Reject(row["id"], row["reason"], row["where"]), row["row"])
        for row in table.to_pylist()
        if 0 <= row["row"] < done
    ]
