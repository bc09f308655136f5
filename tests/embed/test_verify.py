import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.verify import verify_store
from clipkit.models.dual_encoder import DualEncoder
from clipkit.packages import file_sha256
from tests.embed.made_stores import make_store, unit

KINDS = ["image", "text", "text"] * 4
IDS = [str(row // 3) for row in range(12)]


def rewrite(store: EmbeddingStore, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard, and have `store.json` agree with the bytes."""
    path = store.path / store.info.shards[number].file
    buffer = io.BytesIO()
    pq.write_table(change(pq.read_table(path)), buffer)
    path.write_bytes(buffer.getvalue())
    store.info.shards[number] = replace(store.info.shards[number], sha256=file_sha256(path))
    store.info.write(store.path)


def put(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        at = table.schema.get_field_index(name)
        return table.set_column(at, name, pa.array(values, table.schema.field(name).type))

    return change


def broken(tmp_path: Path, change: Callable[[pa.Table], pa.Table]) -> list[str]:
    store = make_store(
        tmp_path / "store", unit(12, 4), kinds=KINDS, ids=IDS, what="both", shard_rows=5
    )
    assert verify_store(store.path, store.info) == []
    rewrite(store, 1, change)
    problems = verify_store(store.path, EmbeddingStore(store.path).info)
    assert {(p.shard, p.redo()) for p in problems} == {
        ("shard-00001.parquet", "rows 5 to 9 of the input")
    }
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("embedding", 2, [1, np.nan, 0, 0]), "1 row (2) with a number that is not finite"),
        (put("embedding", 4, [2, 0, 0, 0]), "1 row (4) of another length than 1"),
        (put("kind", 0, "video"), "1 row (0) that are none of both"),
        (put("id", 3, "9"), "1 row (3) without its image before it"),
        (lambda table: table.drop_columns(["kind"]), "lacks column kind"),
        (lambda table: table.slice(1), "has 4 rows, not the 5"),
        (
            lambda table: table.set_column(
                2, "embedding", pa.array([[1.0]] * 5, pa.list_(pa.float32(), 1))
            ),
            "not 4 x float32",
        ),
    ],
    ids=["nan", "length", "kind", "order", "column", "rows", "width"],
)
def test_what_is_wrong_in_a_shard(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], sentence: str
) -> None:
    assert any(sentence in told for told in broken(tmp_path, change))


def test_files_that_are_not_as_they_were(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", unit(12, 4), shard_rows=5)
    (store.path / "shard-00000.parquet").unlink()
    with (store.path / "shard-00002.parquet").open("ab") as file:
        file.write(b"x")
    problems = verify_store(store.path, store.info)
    assert [str(problem) for problem in problems] == [
        "shard-00000.parquet is missing",
        "shard-00002.parquet was changed after it was written (sha256 differs)",
    ]
    assert [problem.redo() for problem in problems] == [
        "rows 0 to 4 of the input",
        "rows 10 to 11 of the input",
    ]


def test_rows_and_rejects_are_counted_shard_by_shard(
    model: DualEncoder, corrupt: Path, tmp_path: Path
) -> None:
    store = embed(model, corrupt, tmp_path / "store", what="both", shard_rows=5)
    assert store.verify() == []
    (store.path / "rejects.parquet").unlink()
    told = store.verify()
    assert any("9 rows and 0 are rejected, of 10 that it covers" in line for line in told)
    assert any("rejects.parquet lists 0 rows, not the 1 of store.json" in line for line in told)
