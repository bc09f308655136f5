import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.data import load_data
from tests.cli.conftest import Run


@pytest.fixture
def store(run: Run, saved: Path, photos: Path) -> Path:
    (photos / "again.png").write_bytes((photos / "red1.png").read_bytes())
    (photos / "again.txt").write_text("the same\n")
    out = photos.parent / "store"
    assert run("embed", photos, "--model", saved, "--out", out, "--what", "both").code == 0
    return out


def test_duplicates(run: Run, store: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "same.csv", tmp_path / "same.png"
    words = ["--threshold", 0.999999, "--out", out, "--sheet", sheet]
    result = run("store", "duplicates", store, *words)
    assert result.code == 0
    assert "2 rows are in 1 groups" in result.out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["id"]) for row in rows] == [("0", "again.png"), ("0", "red1.png")]
    assert [row["nearest_row"] for row in rows] == [rows[1]["row"], rows[0]["row"]]
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 180
    refused = run("store", "duplicates", store, *words)
    assert refused.code == 2
    assert "is there already" in refused.err


def test_outliers(run: Run, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "odd.parquet"
    result = run("store", "outliers", store, "-n", 5, "-k", 2, "--out", out, "--kind", "text")
    assert result.code == 0
    rows = pq.read_table(out).to_pylist()
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert {row["kind"] for row in rows} == {"text"}
    assert rows[0]["caption"] in result.out


def test_kmeans(run: Run, store: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "groups.jsonl", tmp_path / "groups.jpg"
    words = ["--groups", 3, "--nearest", 2, "--out", out, "--sheet", sheet]
    result = run("store", "kmeans", store, *words)
    assert result.code == 0
    assert "table" in result.out
    assert len(out.read_text().splitlines()) == 19
    with Image.open(sheet) as picture:
        assert picture.height > 3 * 180
    assert "19 rows cannot make 99 groups" in run("store", "kmeans", store, "--groups", 99).err


def test_filter(run: Run, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    result = run("store", "filter", store, "--out", out, "--keep", 0.5)
    assert result.code == 0
    assert "kept   9 of 19 pairs, of 9 images" in result.out
    assert len(load_data(out / "manifest.yaml")) == 9
    again = run("store", "filter", store, "--out", out, "--keep", 0.5)
    assert again.code == 2
    assert "is there already" in again.err
    assert "either the share" in run("store", "filter", store, "--out", tmp_path / "b").err


def test_files_that_cannot_be_written(run: Run, store: Path) -> None:
    assert "ends in none of" in run("store", "outliers", store, "--out", "a.xlsx").err
    assert "ends in none of" in run("store", "outliers", store, "--sheet", "a.gif").err
