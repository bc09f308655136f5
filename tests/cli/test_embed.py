from pathlib import Path

from clipkit.embed.store import EmbeddingStore
from tests.cli.conftest import Run


def test_a_folder_becomes_a_store(run: Run, saved: Path, corrupt: Path) -> None:
    out = corrupt.parent / "store"
    result = run("embed", corrupt, "--model", saved, "--out", out)
    assert result.code == 0
    assert "17 rows of 16 numbers" in result.out
    assert "red1.png: cannot identify image file" in result.out
    assert f"clipkit search {out}" in result.out
    assert len(EmbeddingStore(out)) == 17
    assert run("embed", corrupt, "--model", saved, "--out", out).code == 0


def test_what_cannot_be_used(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    for words, sentence in (
        ([photos, "--what", "image"], "did you mean 'images'"),
        ([photos, "--dtype", "float61"], "did you mean 'float16'"),
        (["/no/such"], "neither a file or folder"),
        ([photos, "--max-rejected", "3"], "between 0 and 1"),
    ):
        result = run("embed", *words, "--model", saved, "--out", out)
        assert result.code == 2
        assert sentence in result.err
