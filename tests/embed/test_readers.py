"""What other programs read of a store, as it lies on the disk."""

from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from clipkit.embed.store import EmbeddingStore
from tests.embed.made_stores import make_store, unit

SHARDS = "shard-*.parquet"


@pytest.fixture(params=["float16", "float32"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EmbeddingStore:
    columns: dict[str, Any] = {"label": ["cat", None, "dög"] * 5, "year": list(range(15))}
    made = make_store(
        tmp_path / "store", unit(15, 4), dtype=request.param, shard_rows=6, columns=columns
    )
    made.build_index()  # whose files must not be in the way
    return made


def check(store: EmbeddingStore, embeddings: Any, columns: dict[str, list[Any]]) -> None:
    found = np.array([list(row) for row in embeddings], np.float32)
    np.testing.assert_array_equal(found, store.embeddings())
    assert columns == {
        "id": store.ids(),
        "kind": ["image"] * 15,
        "label": ["cat", None, "dög"] * 5,
        "year": list(range(15)),
    }


NAMES = ["id", "kind", "label", "year"]


def test_datasets(store: EmbeddingStore, tmp_path: Path) -> None:
    read = datasets.load_dataset(
        "parquet",
        data_files=str(store.path / SHARDS),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    check(store, read["embedding"], {name: list(read[name]) for name in NAMES})


def test_pandas(store: EmbeddingStore) -> None:
    files = sorted(store.path.glob(SHARDS))
    frame = pd.concat([pd.read_parquet(file) for file in files])
    columns = {name: [None if pd.isna(value) else value for value in frame[name]] for name in NAMES}
    check(store, frame["embedding"], columns)


def test_polars(store: EmbeddingStore) -> None:
    frame = pl.scan_parquet(store.path / SHARDS).collect()
    check(store, frame["embedding"].to_list(), {name: frame[name].to_list() for name in NAMES})


def test_duckdb(store: EmbeddingStore) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(
            f"select id, kind, label, year, embedding from '{store.path / SHARDS}'"
        ).fetchall()
        cats = connection.execute(
            f"select count(*) from '{store.path / SHARDS}' where label = 'cat' and year >= 6"
        ).fetchone()
    check(
        store,
        [row[4] for row in found],
        {name: [row[at] for row in found] for at, name in enumerate(NAMES)},
    )
    assert cats == (3,)
