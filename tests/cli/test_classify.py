import csv
import json
import re
from pathlib import Path

import pytest

from clipkit.classify import ZeroShotClassifier
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
        ([photos, "--labels", ""], "--labels is missing"),
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


def test_none_of_the_labels(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    common = ["classify", photos, "--labels", "red,green,blue", "--model", saved]
    lines = [json.loads(line) for line in run(*common).out.splitlines()]
    assert all(line["label"] == next(iter(line["labels"])) for line in lines)
    best = sorted(max(line["labels"].values()) for line in lines)
    cut = best[9]
    told = [json.loads(line) for line in run(*common, "--other", cut).out.splitlines()]
    assert [line["label"] == "other" for line in told] == [
        max(line["labels"].values()) < cut for line in lines
    ]
    table = run(*common, "--other", cut, "--format", "table").out
    assert table.count("other") == sum(line["label"] == "other" for line in told)
    lines_shown = [line for line in table.splitlines() if line[0] in "┃│"]
    head, *cells = [re.split("[┃│]", line) for line in lines_shown]
    assert [word.strip() for word in head[2:-1]] == ["caption", "answer", "1.", "2.", "3."]
    answers = [cell[3].strip() for cell in cells if cell[3].strip()]
    assert answers == [line["label"] for line in told]
    assert all("%" in cell[4] for cell in cells if cell[3].strip())
    rows = list(csv.DictReader(run(*common, "--other", cut, "--format", "csv").out.splitlines()))
    assert {row["answer"] for row in rows} <= {"red", "green", "blue", "other"}
    text = [json.loads(line) for line in run(*common, "--other", "a photo").out.splitlines()]
    assert "other" in {label for line in text for label in line["labels"]}
    refused = run(*common, "--other", 3)
    assert refused.code == 2
    assert "other: a threshold lies between 0 and 1, not 3.0" in refused.err


def test_a_saved_classifier_has_its_labels(
    run: Run, saved: Path, photos: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    ZeroShotClassifier(saved, ["red", "green"], templates="none").save(kept)
    fresh = run(
        "classify", photos, "--labels", "red,green", "--templates", "none", "--model", saved
    ).out
    assert run("classify", photos, "--model", kept).out == fresh
    for words, sentence in (
        (["--model", kept, "--labels", "a,b"], "--labels: the classifier"),
        (["--model", kept, "--other", "0.3"], "--other: the classifier"),
        (["--model", saved], "--labels is missing"),
    ):
        result = run("classify", photos, *words)
        assert result.code == 2
        assert sentence in result.err


def test_a_list_may_be_longer_than_a_name(run: Run, saved: Path, photos: Path) -> None:
    labels = [f"a square of the colour {number}" for number in range(200)]
    words = ["--labels", ",".join(labels), "--model", saved, "--top", 200, "--sample", 1]
    result = run("classify", photos, *words)
    assert result.code == 0, result.err
    assert set(json.loads(result.out)["labels"]) == set(labels)


def test_labels_of_data(
    run: Run, saved: Path, photos: Path, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = run("classify", photos, "--labels", classes, "--model", saved, "--top", 9).out
    names = sorted(path.name for path in classes.iterdir())
    assert sorted(json.loads(lines.splitlines()[0])["labels"]) == names
    monkeypatch.chdir(classes.parent)
    classes.rename("c")  # a name of one letter is no list of one label
    lines = run("classify", photos, "--labels", "c", "--model", saved, "--top", 9).out
    assert sorted(json.loads(lines.splitlines()[0])["labels"]) == names
