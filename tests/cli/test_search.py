import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def store(run: Run, saved: Path, photos: Path) -> Path:
    out = photos.parent / "store"
    assert run("embed", photos, "--model", saved, "--out", out).code == 0
    return out


def test_words_and_images(run: Run, store: Path, photos: Path) -> None:
    result = run("search", store, "a red square", "the cat", "-k", 2)
    assert result.code == 0
    hits = [json.loads(line) for line in result.out.splitlines()]
    assert [hit["query"] for hit in hits] == ["a red square"] * 2 + ["the cat"] * 2
    assert hits[0]["score"] >= hits[1]["score"]
    found = run("search", store, "--image", photos / "blue2.png", "-k", 1, "--format", "table")
    assert "1.000" in found.out
    assert "blue2.png" in found.out


def test_what_cannot_be_used(run: Run, store: Path, tmp_path: Path, photos: Path) -> None:
    for words, sentence in (
        ([store], "either a text or --image"),
        ([store, "x", "--image", photos / "red0.png"], "either a text or --image"),
        ([store, "--image", tmp_path / "gone.png"], "no image file"),
        ([tmp_path, "x"], "no store.json"),
        ([store, "x", "--model", "startr"], "did you mean 'starter'"),
        ([store, "x", "--format", "xml"], "unknown"),
        ([store, "x", "--kind", "video"], "kind"),
    ):
        result = run("search", *words)
        assert result.code == 2
        assert sentence in result.err
