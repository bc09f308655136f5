from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Run


@pytest.fixture
def store(run: Run, saved: Path, photos: Path) -> Path:
    (photos / "again.png").write_bytes((photos / "red1.png").read_bytes())
    (photos / "again.txt").write_text("the same\n")
    out = photos.parent / "store"
    assert run("embed", photos, "--model", saved, "--out", out, "--what", "both").code == 0
    return out


def test_mine(run: Run, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "negatives.parquet"
    words = ["--k", 3, "--among", "image", "--max-share", 1, "--no-labels", "--out", out]
    result = run("mine", store, *words)
    assert result.code == 0
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 19
    by_id = {row["id"]: row for row in rows}
    assert "red1.png" not in by_id["again.png"]["negative_ids"]
    assert "again.png" not in by_id["red1.png"]["negative_ids"]
    assert sum(len(row["scores"]) for row in rows) == 57
    assert "mined  57 negatives of 19 rows" in result.out
    assert "2 by image" in result.out
    assert rows[0]["negative_ids"][0] in result.out
    assert run("mine", store, *words).code == 2


def test_nothing_is_skipped_and_nothing_left(run: Run, store: Path) -> None:
    result = run("mine", store, "-k", 99, "--max-score", 0.99)
    assert "short  19 rows have fewer than 99" in result.out
    assert "table" not in result.out


def test_wrong_options(run: Run, store: Path) -> None:
    assert "max_share must be above 0" in run("mine", store, "--max-share", 2).err
    assert "ends in none of .parquet, .jsonl" in run("mine", store, "--out", "a.csv").err
    assert "anchors must be 'image' or 'text'" in run("mine", store, "--anchors", "x").err
