from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.tables import check_empty
from clipkit.errors import StoreError
from tests.embed.made_stores import make_store, unit


def test_each_table_is_a_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", unit(10, 4), shard_rows=4)
    assert [(shard.rows, shard.covers) for shard in store.info.shards] == [(4, 4), (4, 4), (2, 2)]
    assert (store.info.rows, store.info.input_rows, store.info.complete) == (10, 10, True)
    np.testing.assert_array_equal(store.embeddings(), unit(10, 4).astype(np.float32))
    assert store.verify() == []


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="is there already"):
            check_empty(path)
    check_empty(tmp_path / "new")
    with pytest.raises(StoreError, match="no rows"):
        make_store(tmp_path / "none", unit(0, 4))
