import json
from pathlib import Path

import pytest

from clipkit.classify.labels import resolve_labels
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
        ("cats", "does not end in one of"),
        (tmp_path / "gone.txt", "No such file"),
        (tmp_path / "bad.json", "damaged"),
        (tmp_path / "number.json", "neither a list"),
        (tmp_path / "empty.txt", "there is no label"),
    ):
        with pytest.raises(ConfigError, match=word):
            resolve_labels(labels)
