"""From a data set to a store of embeddings; run again after a kill, it goes on where it was."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch

from clipkit.data.columnar import ColumnarSamples
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.paths import list_paths
from clipkit.data.rejects import Rejects
from clipkit.embed.fill import fill
from clipkit.embed.rows import DTYPES, WHATS, build_schema
from clipkit.embed.store import INFO, EmbeddingStore, StoreInfo
from clipkit.embed.stream import Encoder
from clipkit.embed.work import WORK, WorkFolder
from clipkit.errors import ConfigError, DataError, StoreError, did_you_mean
from clipkit.launch import Share, told_by_launcher, told_to_use_cpu
from clipkit.models import DualEncoder, load
from clipkit.models.precision import PRECISIONS, Precision
from clipkit.signals import StopSignals
from clipkit.types import Progress


def embed(
    model: str | Path | DualEncoder,
    data: str | Path | Dataset | Sequence[str | Path],
    out: str | Path,
    *,
    what: str = "images",
    shard_rows: int = 10_000,
    dtype: str = "float32",
    batch_size: int | None = None,
    precision: str = "float32",
    device: str | None = None,
    max_rejected: float = 0.01,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Encode a whole data set into a store, or what is new in it since the store was made.

    Killed at any moment and run again, it goes on where it was, a second or a batch before. Of a
    store that is complete, shards stay whose samples are as they were; of the others, what has the
    same content has the embedding that it had, the rest is encoded, and rows that are gone from the
    data are gone from the store. Until that is done, the store is the old one. Shards that were
    damaged are made again, and files that could not be read are tried again.

    Started by `accelerate launch` or torchrun, the processes share the work.

    Args:
        model: what `clipkit.load` takes, or a model.
        data: what `load_data` takes, or a list of image files.
        out: the folder of the store; absent, empty, or made by a call with the same settings.
        what: "images", "captions" or "both".
        shard_rows: rows of the data that one shard is made from.
        dtype: "float32" or "float16", for what is stored.
        batch_size: images a forward pass; what suits the device when `None`.
        precision: of a model that is loaded here, see `clipkit.load`.
        device: likewise; when `None`, the GPU of each of several processes, else the CPU.
        max_rejected: largest share of rows that may be unusable; one row always may.
        progress: told how many rows of the data are done, and of how many.

    Raises:
        ConfigError: for an option that cannot be used.
        DataError: when the data cannot be read, or nothing in it can be embedded.
        StoreError: when `out` holds something else, or a store of another making, or another
            export writes into it, or it cannot be written.
        Interrupted: by a signal; what was encoded is saved.

    Example:
        >>> store = embed("starter", "photos/", "store/")  # doctest: +SKIP
    """
    check_options(what, dtype, shard_rows, batch_size, precision)
    share = told_by_launcher()
    with StopSignals() as stop, WorkFolder(check_folder(Path(out)), share) as work:
        with stop.at_once():
            dataset = find_data(data, what)
            encoder = find_model(model, precision, device, share)
            info = describe(encoder, dataset, what, dtype, shard_rows)
            schema = build_schema(dataset.samples, dim=info.dim, dtype=dtype)
            rejects = Rejects(max_rejected, dataset.rejects)
        return fill(
            work,
            info,
            dataset.samples,
            schema,
            Encoder(encoder, batch_size),
            rejects=rejects,
            stop=stop,
            progress=progress,
            fingerprint=partial(fingerprint_of, dataset, what),
        )


def check_options(
    what: str, dtype: str, shard_rows: int, batch_size: int | None, precision: str
) -> None:
    """Raise ConfigError for an option that cannot be used."""
    if what not in WHATS:
        raise ConfigError(f"what: {what!r} is unknown{did_you_mean(what, WHATS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: {dtype!r} is unknown{did_you_mean(dtype, DTYPES)}")
    if precision not in PRECISIONS:
        near = did_you_mean(precision, PRECISIONS)
        raise ConfigError(f"precision: {precision!r} is unknown{near}")
    if shard_rows < 1:
        raise ConfigError(f"shard_rows must be at least 1, not {shard_rows}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")


def check_folder(folder: Path) -> Path:
    """Return the folder of a store; raises StoreError when it holds something else."""
    if folder.is_file():
        raise StoreError(f"{folder} is a file; name a folder for the store")
    if folder.is_dir() and not (folder / INFO).is_file():
        if {path.name for path in folder.iterdir()} - {WORK}:
            raise StoreError(f"{folder} holds files that are no embedding store: name another one")
    return folder


def find_data(data: str | Path | Dataset | Sequence[str | Path], what: str) -> Dataset:
    """Read the data; raises DataError when it has nothing of what is to be embedded."""
    if isinstance(data, str | Path | Dataset):
        dataset = load_data(data)
    else:
        dataset = list_paths(data)
    samples = dataset.samples
    if what == "captions":
        known = isinstance(samples, ColumnarSamples) and not samples.captioned
        if known or not any(sample.captions for sample in samples):
            raise DataError(f"{dataset.name} has no captions to embed")
    return dataset


def find_model(
    model: str | Path | DualEncoder, precision: str, device: str | None, share: Share
) -> DualEncoder:
    """Return the model, on this process's device."""
    if isinstance(model, DualEncoder):
        return model
    if device is None and share.count > 1 and torch.cuda.is_available() and not told_to_use_cpu():
        device = f"cuda:{share.local_rank % torch.cuda.device_count()}"
    return load(model, precision=cast(Precision, precision), device=device)


def describe(
    model: DualEncoder, data: Dataset, what: str, dtype: str, shard_rows: int
) -> StoreInfo:
    """Return what a store is to hold."""
    return StoreInfo(
        model={"name": model.name, "fingerprint": model.fingerprint()},
        preprocessing=asdict(model.preprocessing),
        data={"name": data.name, "fingerprint": ""},
        what=what,
        dim=model.dim,
        dtype=dtype,
        shard_rows=shard_rows,
        input_rows=len(data) + len(data.rejects),
        precision="bf16" if model.tower_digests else "float32",
    )


def fingerprint_of(data: Dataset, what: str, images: Iterator[str]) -> str:
    """Return the data's fingerprint, for which no image is read; of captions, theirs alone."""
    if what != "captions":
        return data.fingerprint(images)
    digest = hashlib.sha256()
    for sample in data:
        digest.update(json.dumps([sample.id, sample.captions, sample.label]).encode())
    return f"sha256:{digest.hexdigest()}"
