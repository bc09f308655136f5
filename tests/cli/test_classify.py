import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_jsonl_in_a_pipe(run: Run, saved: Path, photos: Path) -> None:
    result = run("classify", photos, "--labels", "red,green , blue", "--model", saved, "--top", 2)
    assert result.code == 0
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert len(lines) == 18
    assert lines[0]["image"] == f"{photos}/black0.png"
    assert len(lines[0]["labels"]) == 2
    shares = list(lines[0]["labels"].values())
    assert shares == sorted(shares, reverse=True)


def test_table_csv_and_a_file_of_labels(
    run: Run, saved: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    labels = photos.parent / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    common = ["classify", "red0.png", "--labels", labels, "--model", saved]
    table = run(*common, "--format", "table")
    assert "red0.png" in table.out
    assert "%" in table.out
    rows = list(csv.DictReader(run(*common, "--format", "csv").out.splitlines()))
    assert {row["label"] for row in rows} == {"red", "green", "blue"}
    assert abs(sum(float(row["probability"]) for row in rows) - 1) < 1e-4


def test_a_corrupt_image_is_told_in_its_place(run: Run, saved: Path, corrupt: Path) -> None:
    result = run("classify", corrupt, "--labels", "red,blue", "--model", saved)
    assert result.code == 0
    lines = [json.loads(line) for line in result.out.splitlines()]
    bad = [line for line in lines if "error" in line]
    assert [(Path(line["image"]).name, line["error"]) for line in bad] == [
        ("red1.png", "cannot identify image file")
    ]
    assert "1 of 18 images could not be read" in result.err
    alone = run("classify", corrupt / "red1.png", "--labels", "red,blue", "--model", saved)
    assert alone.code == 2
    table = run("classify", corrupt, "--labels", "a,b", "--model", saved, "--format", "table")
    assert "cannot identify image file" in table.out


def test_a_sample_is_the_same_each_time(run: Run, saved: Path, photos: Path) -> None:
    common = ["classify", photos, "--labels", "red,blue", "--model", saved, "--sample", 4]
    first = run(*common).out
    assert len(first.splitlines()) == 4
    assert first == run(*common).out


def test_what_cannot_be_used(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, sentence in (
        ([photos, "--labels", "gone.txt"], "labels file 'gone.txt' cannot be read"),
        ([photos, "--labels", "cat"], "one label only"),
        ([photos, "--labels", "cat,cat"], "'cat' occurs twice"),
        (["/no/such.jpg", "--labels", "a,b"], "neither a file or folder"),
        ([empty, "--labels", "a,b"], "no images in"),
        ([photos, "--labels", "a,b", "--templates", "plian"], "did you mean 'plain'"),
        ([photos, "--labels", "a,b", "--format", "xml"], "--format 'xml' is unknown"),
    ):
        result = run("classify", *words, "--model", saved)
        assert result.code == 2
        assert sentence in result.err
        assert len(result.err.splitlines()) == 1
