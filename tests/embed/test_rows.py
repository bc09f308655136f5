import numpy as np
import pyarrow as pa

from clipkit.embed.rows import Row, build_schema, build_table
from clipkit.types import Sample
from tests.conftest import square

DATA = [
    Sample("a", square("red"), ("one", "two"), "x", {"n": 1, "mixed": [1, 2], "id": "kept"}),
    Sample("b", square("red"), (), None, {"n": 2, "mixed": "text", "flag": True}),
]


ROWS = [Row(sample, "image", None, f"{at:064x}") for at, sample in enumerate(DATA)]


def test_columns_have_plain_types_and_metadata_survives() -> None:
    schema = build_schema(DATA, dim=3, dtype="float16")
    embeddings = np.array([[0.5, 0.25, 0.125], [1, 2, 3]], np.float32)
    table = build_table(ROWS, embeddings, schema)
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 3)
    assert table["embedding"].to_pylist() == embeddings.tolist()
    assert table["n"].to_pylist() == [1, 2]
    assert table["flag"].to_pylist() == [None, True]
    assert table["mixed"].to_pylist() == ["[1, 2]", "text"]
    assert table["metadata_id"].to_pylist() == ["kept", None]
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["path"].to_pylist() == [None, None]


def test_a_shard_without_some_metadata_has_the_same_columns() -> None:
    schema = build_schema(DATA, dim=1, dtype="float32")
    table = build_table(ROWS[1:], np.zeros((1, 1), np.float32), schema)
    assert table.schema == schema
    assert table["metadata_id"].to_pylist() == [None]
