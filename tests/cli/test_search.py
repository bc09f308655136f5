import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipkit.embed.store import EmbeddingStore
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
        ([store], "give a text, --image FILE or both"),
        ([store, "x", "--minus", "x"], "nothing is left"),
        ([store, "x", "--filter", "labl=cat"], "did you mean 'label'"),
        ([store, "x", "--index"], "clipkit store index"),
        ([store, "x", "--sheet", "sheet.gif"], "none of .png, .jpg, .webp"),
        ([store, "x", "--sheet", photos / "red0.png"], "is there already"),
        ([store, "--image", tmp_path / "gone.png"], "no image file"),
        ([tmp_path, "x"], "no store.json"),
        ([store, "x", "--model", "startr"], "did you mean 'starter'"),
        ([store, "x", "--format", "xml"], "unknown"),
        ([store, "x", "--kind", "video"], "kind"),
    ):
        result = run("search", *words)
        assert result.code == 2
        assert sentence in result.err


def hits(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_sums_and_differences(run: Run, store: Path, photos: Path) -> None:
    blue, red = photos / "blue2.png", photos / "red1.png"
    opened = EmbeddingStore(store)
    cases: list[tuple[list[Any], list[Any], list[Any]]] = [
        (["a cat", "--image", blue], ["a cat", blue], []),
        (["a cat", "--minus", "a dog"], ["a cat"], ["a dog"]),
        (["--image", blue, "--image", red, "--minus-image", red], [blue, red], [red]),
    ]
    for words, plus, minus in cases:
        found = hits(run("search", store, *words, "-k", 3).out)
        expected = opened.search(plus, 3, minus=minus)
        assert [hit["row"] for hit in found] == [hit.row for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected])
    told = hits(run("search", store, "a cat", "--image", blue, "--minus", "a dog", "-k", 1).out)
    assert told[0]["query"] == f"a cat + {blue} - a dog"


def test_rows_that_a_filter_keeps(run: Run, saved: Path, classes: Path) -> None:
    out = classes.parent / "labelled"
    assert run("embed", classes, "--model", saved, "--out", out).code == 0
    found = hits(run("search", out, "a cat", "--filter", "label=red").out)
    assert [hit["label"] for hit in found] == ["red", "red"]
    found = hits(run("search", out, "a cat", "--filter", "label!=red", "-k", 50).out)
    assert len(found) == 10


def test_a_sheet_of_what_was_found(run: Run, store: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    result = run("search", store, "a red square", "a cat", "-k", 4, "--sheet", sheet)
    assert result.code == 0
    assert f"sheet  {sheet}  (8 rows)" in result.err
    assert len(hits(result.out)) == 8
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 180


def test_an_index_when_asked_for(run: Run, store: Path) -> None:
    assert run("store", "index", store).code == 0
    exact = run("search", store, "a red square", "--exact")
    assert run("search", store, "a red square", "--index").out == exact.out
