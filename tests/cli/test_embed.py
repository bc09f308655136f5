import io
import sys
from pathlib import Path

import pytest

from clipkit.embed.store import EmbeddingStore
from tests.cli.conftest import Run
from tests.conftest import square


def test_a_folder_becomes_a_store(run: Run, saved: Path, corrupt: Path) -> None:
    out = corrupt.parent / "store"
    result = run("embed", corrupt, "--model", saved, "--out", out)
    assert result.code == 0
    assert "17 rows of 16 numbers" in result.out
    assert "17 = 17 encoded + 0 reused; 1 rejected, 0 removed" in result.out
    assert "red1.png: cannot identify image file" in result.out
    assert f"clipkit search {out}" in result.out
    assert len(EmbeddingStore(out)) == 17
    (corrupt / "red0.png").unlink()
    square("red", 7).save(corrupt / "red9.png")
    (out / "shard-00000.parquet").write_bytes(b"x")
    again = run("embed", corrupt, "--model", saved, "--out", out)
    assert again.code == 0
    assert "shard-00000.parquet was damaged or missing" in again.out
    (corrupt / "red9.png").unlink()
    again = run("embed", corrupt, "--model", saved, "--out", out)
    assert "16 = 0 encoded + 16 reused; 1 rejected, 1 removed" in again.out


def test_files_by_name_by_list_and_from_stdin(
    run: Run, saved: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(photos / "red0.png"), str(photos / "blue1.png")]
    lines = photos / "list.txt"
    lines.write_text("\n".join(names) + "\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines.read_text()))
    given: list[list[object]] = [[*names], [names[0]], [lines], ["-"]]
    for number, words in enumerate(given):
        out = photos.parent / f"store{number}"
        assert run("embed", *words, "--model", saved, "--out", out).code == 0
        assert EmbeddingStore(out).ids() == names[: len(EmbeddingStore(out))]
        assert len(EmbeddingStore(out)) == (1 if number == 1 else 2)


def test_what_cannot_be_used(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    cases: tuple[tuple[list[object], str], ...] = (
        ([photos, "--what", "image"], "did you mean 'images'"),
        ([photos, "--dtype", "float61"], "did you mean 'float16'"),
        (["/no/such"], "neither a file or folder"),
        ([photos, "--max-rejected", "3"], "between 0 and 1"),
        ([photos, "--precision", "half"], "precision: 'half' is unknown"),
        ([photos, "--device", "toaster"], "device 'toaster' cannot be used"),
        ([tmp_path / "a.png"], "1 row rejected: 1 file not found"),
    )
    for words, sentence in cases:
        result = run("embed", *words, "--model", saved, "--out", out)
        assert result.code == 2
        assert sentence in result.err


def test_options_that_would_be_ignored_are_refused(run: Run, saved: Path, photos: Path) -> None:
    common = ["embed", photos, "--model", saved, "--out", photos.parent / "store"]
    for words, sentence in (
        (["--ray", 2, "--device", "cpu"], "--device: actors compute where --gpus says"),
        (["--gpus", 1], "--gpus: is of the actors of --ray"),
    ):
        result = run(*common, *words)
        assert result.code == 2
        assert sentence in result.err
    assert not (photos.parent / "store").exists()
