import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipkit.embed.reuse import Reuse, count_removed
from clipkit.embed.rows import Row, build_schema, build_table
from clipkit.types import Sample


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, rows: Sequence[tuple[str, str]], dtype: str, seed: int) -> np.ndarray:
    """Write a shard of rows, each of a kind and a content; return its embeddings."""
    told = [Row(Sample(text, None), kind, text, sha256(text)) for kind, text in rows]  # type: ignore[arg-type]
    values = np.random.default_rng(seed).normal(size=(len(rows), 4)).astype(np.float32)
    pq.write_table(build_table(told, values, build_schema([], dim=4, dtype=dtype)), path)
    return values.astype(dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_row_is_found_by_what_it_was_made_from(tmp_path: Path, dtype: str) -> None:
    """A hash that ends in zeros too, of which numpy would lose some."""
    texts = [f"text {number}" for number in range(3000)]
    assert any(sha256(text)[30:32] == "00" for text in texts)
    rows = [("image" if number % 3 else "text", text) for number, text in enumerate(texts)]
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    values = np.concatenate(
        [write(paths[0], rows[:1000], dtype, 0), write(paths[1], rows[1000:], dtype, 1)]
    )
    reuse = Reuse(paths)
    assert len(reuse) == 3000
    for (kind, text), value in zip(rows, values, strict=True):
        found = reuse.get(kind, sha256(text))
        assert found is not None
        np.testing.assert_array_equal(found, value)
        assert not reuse.has("text" if kind == "image" else "image", sha256(text))
    assert reuse.get("text", sha256("another")) is None
    assert not Reuse().has("text", sha256("another"))


def test_removed_rows_are_those_whose_id_is_gone(tmp_path: Path) -> None:
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    write(old, [("image", "a"), ("text", "b"), ("text", "b"), ("image", "c")], "float32", 0)
    write(new, [("image", "c"), ("image", "d")], "float32", 0)
    assert count_removed([old], [new], ["a"]) == 2
    assert count_removed([old], [], []) == 4
