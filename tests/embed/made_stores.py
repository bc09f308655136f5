"""Stores of made-up embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipkit.embed.store import EmbeddingStore, StoreInfo
from clipkit.embed.tables import write_tables


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return random rows of length 1."""
    found: np.ndarray = np.random.default_rng(seed).normal(size=(rows, dim))
    made: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return made


def make_store(
    folder: Path,
    embeddings: np.ndarray,
    *,
    dtype: str = "float32",
    kinds: Sequence[str] | None = None,
    what: str = "images",
    shard_rows: int = 1_000,
    ids: Sequence[str] | None = None,
    columns: dict[str, Sequence[Any]] | None = None,
) -> EmbeddingStore:
    """Write a store; ids are row numbers, and captions tell them too, unless they are given."""
    rows, dim = embeddings.shape
    values: dict[str, Any] = {
        "id": [str(row) for row in range(rows)] if ids is None else list(ids),
        "kind": ["image"] * rows if kinds is None else list(kinds),
        "caption": [f"row {row}" for row in range(rows)],
        "label": [None] * rows,
        "path": [None] * rows,
        **(columns or {}),
    }
    info = StoreInfo(
        model={"name": "made up", "fingerprint": "sha256:0"},
        preprocessing={},
        data={"name": "made up", "fingerprint": "sha256:0"},
        what=what,
        dim=dim,
        dtype=dtype,
        shard_rows=shard_rows,
        input_rows=rows,
    )
    stored = embeddings.astype(dtype)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), dim)
    plain = pa.schema([(name, pa.string()) for name in ("id", "kind", "caption", "label", "path")])
    made = {
        name: pa.array(column, plain.field(name).type if name in plain.names else None)
        for name, column in values.items()
    }
    order = ["id", "kind", "embedding", *[name for name in made if name not in ("id", "kind")]]
    table = pa.table({name: flat if name == "embedding" else made[name] for name in order})
    return write_tables(
        folder, info, (table.slice(at, shard_rows) for at in range(0, rows, shard_rows))
    )
