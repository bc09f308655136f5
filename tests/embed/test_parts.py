from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.parts import chain, join_chunks, part_range, read_part
from clipkit.embed.rows import Row, build_schema
from clipkit.embed.stream import Bad, Chunk
from clipkit.types import Sample

SCHEMA = build_schema([], dim=3, dtype="float32")


def chunk(start: int, stop: int) -> Chunk:
    rows = [Row(Sample(f"{at}", None), "image", None, f"{at:064x}") for at in range(start, stop)]
    values = np.arange(3 * len(rows), dtype=np.float32).reshape(-1, 3) + start
    bad = [Bad(start, "x", "why", "where", "sha", True)]
    return Chunk(start, stop, rows, values, bad, b"e" * 16 * (stop - start), 7, 5, 1)


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    part = join_chunks([chunk(4, 6), chunk(6, 9)], SCHEMA)
    part.write(tmp_path / "parts")
    path = next((tmp_path / "parts").iterdir())
    assert part_range(path) == (4, 9)
    found = read_part(path)
    assert found == part
    assert (part.asked, part.encoded, part.skipped, len(part.bad)) == (14, 10, 2, 2)
    assert part.table["embedding"].to_pylist()[2:4] == [[6, 7, 8], [9, 10, 11]]


def test_a_part_of_rejects_alone_has_the_same_columns(tmp_path: Path) -> None:
    part = join_chunks([Chunk(0, 1, bad=[Bad(0, "x", "why", "", "", False)])], SCHEMA)
    assert part.table.schema == SCHEMA
    assert len(part.table) == 0


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_damaged_part_is_none(tmp_path: Path, at: int) -> None:
    join_chunks([chunk(0, 3)], SCHEMA).write(tmp_path)
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert read_part(path) is None
    path.write_bytes(b"")
    assert read_part(path) is None
    assert read_part(tmp_path / "000000000000-000000000001.part") is None


def test_a_chain_ends_at_a_gap(tmp_path: Path) -> None:
    for start, stop in ((0, 3), (3, 5), (3, 8), (9, 12)):
        join_chunks([chunk(start, stop)], SCHEMA).write(tmp_path)
    assert [part_range(path) for path in chain(tmp_path, 0, 12)] == [(0, 3), (3, 8)]
    assert [part_range(path) for path in chain(tmp_path, 9, 12)] == [(9, 12)]
    assert chain(tmp_path, 8, 12) == []
    assert chain(tmp_path / "none", 0, 3) == []
