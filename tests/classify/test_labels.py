import json
from pathlib import Path

import datasets
import pytest

from clipkit.classify.labels import resolve_labels
from clipkit.data import load_data
from clipkit.errors import ConfigError


def test_lists_and_mappings() -> None:
    assert resolve_labels(["cat", "dog"]) == {"cat": ("cat",), "dog": ("dog",)}
    given = {"cat": ["cat", "kitten"], "dog": "a dog"}
    assert resolve_labels(given) == {"cat": ("cat", "kitten"), "dog": ("a dog",)}


def test_files(tmp_path: Path) -> None:
    expected = {"cat": ("cat", "kitten"), "dog": ("dog",)}
    (tmp_path / "l.txt").write_text("cat\n\n dog \n")
    (tmp_path / "l.json").write_text(json.dumps({"cat": ["cat", "kitten"], "dog": "dog"}))
    (tmp_path / "m.json").write_text(json.dumps(["cat", "dog"]))
    (tmp_path / "l.csv").write_text("cat,cat,kitten\ndog\n")
    assert list(resolve_labels(tmp_path / "l.txt")) == ["cat", "dog"]
    assert resolve_labels(str(tmp_path / "l.json")) == expected
    assert list(resolve_labels(tmp_path / "m.json")) == ["cat", "dog"]
    assert resolve_labels(tmp_path / "l.csv") == expected


def test_what_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "empty.txt").write_text("\n")
    for labels, word in (
        ([], "there is no label"),
        (["cat", "cat"], "'cat' occurs twice"),
        (["cat", " "], "is empty"),
        ({"cat": []}, "needs text"),
        ("cats", "is neither data nor a file that ends in one of .txt"),
        ("cat," * 2000, "is neither data nor a file"),
        (["x" * 10_485_760], "label 'x{20}'… has 10,485,760 characters; a label"),
        ({"cat": ["y" * 10_001]}, "has 10,001 characters"),
        (tmp_path / "gone.txt", "No such file"),
        (tmp_path / "bad.json", "damaged"),
        (tmp_path / "number.json", "neither a list"),
        (tmp_path / "empty.txt", "there is no label"),
    ):
        with pytest.raises(ConfigError, match=word):
            resolve_labels(labels)


def test_classes_of_data(classes: Path, tmp_path: Path) -> None:
    found = ("black", "blue", "green", "red", "white", "yellow")
    assert tuple(resolve_labels(str(classes))) == found
    assert tuple(resolve_labels(load_data(classes))) == found
    manifest = tmp_path / "mine.yaml"
    manifest.write_text("name: mine\nsource: {kind: folder, root: nowhere}\nclass_names: [b, a]\n")
    assert list(resolve_labels(manifest)) == ["b", "a"]  # without its pictures
    assert len(resolve_labels("skimage_photos")) > 2


def test_classes_of_a_set_that_datasets_wrote(classes: Path, tmp_path: Path) -> None:
    rows = {"image": [str(path) for path in sorted(classes.rglob("*.png"))][:3], "label": [1, 0, 1]}
    features = datasets.Features(
        {"image": datasets.Value("string"), "label": datasets.ClassLabel(names=["dog", "cat"])}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "t.parquet")
    expected = ["dog", "cat"]
    assert list(resolve_labels(str(tmp_path / "set"))) == expected
    assert list(resolve_labels(f"hub:{tmp_path / 'set'}")) == expected
