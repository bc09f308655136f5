from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.classify import pseudo_folder
from clipkit.classify.pseudo_folder import (
    Answer,
    check_pseudo_folder,
    has_text_path,
    is_pseudo_folder,
    read_about,
    write_about,
    write_tables,
)
from clipkit.data import load_data
from clipkit.data.decode import decode_image
from clipkit.errors import DataError
from tests.conftest import square

MANIFEST = {"name": "mine", "licence": "mine", "class_names": ["red", "blue", "green"]}


def png(colour: str) -> bytes:
    content = BytesIO()
    square(colour).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_files_and_bytes_are_read_back(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(pseudo_folder, "ROWS", rows)
    monkeypatch.chdir(photos)
    answers = [
        Answer("a", Path("red0.png"), "red", 0.75, "blue", 0.25),
        Answer("b", png("blue"), "blue", 0.5),
        Answer("c", square("green"), "green", 1.0, given=True),
        Answer("d", photos / "red1.png", "red", 0.1, reason="too low"),
        Answer("e", None, reason="file not found"),
    ]
    for files, some in ((True, [answers[0], *answers[3:]]), (False, answers)):
        folder = tmp_path / f"out{files}"
        folder.mkdir()
        write_tables(folder, some, files=files)
        write_about(folder, {"about": 1}, MANIFEST)
        assert is_pseudo_folder(folder)
        assert read_about(folder) == {"format": 1, "about": 1}
        data = load_data(folder / "manifest.yaml")
        kept = [one for one in some if not one.reason]
        assert [(s.id, s.label) for s in data] == [(one.id, one.label) for one in kept]
        assert data.class_names == ("red", "blue", "green")
        for sample, one in zip(data, kept, strict=True):
            assert sample.metadata["confidence"] == one.confidence
            assert sample.metadata["second"] == one.second
            assert sample.metadata["given"] == one.given
            assert one.image is not None
            assert sample.image is not None
            found, expected = decode_image(sample.image), decode_image(one.image)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
        left_out = pq.read_table(folder / "left_out.parquet").to_pylist()
        assert [(row["id"], row["reason"]) for row in left_out] == [
            ("d", "too low"),
            ("e", "file not found"),
        ]
        assert left_out[0]["image"] == str(photos / "red1.png")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "empty").mkdir()
    for name in ("file", "full"):
        with pytest.raises(DataError, match=r"is a file|no labels: choose another"):
            check_pseudo_folder(tmp_path / name)
    for name in ("empty", "new"):
        check_pseudo_folder(tmp_path / name)
        assert not is_pseudo_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("{", "damaged"), ("{}", "damaged"), ('{"format": 7}', "format 7")],
)
def test_what_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "label.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_about(tmp_path)


def test_paths_that_are_no_text() -> None:
    assert has_text_path(Path("café.png"))
    assert not has_text_path(Path("caf\udce9.png"))
    assert has_text_path(b"bytes")
    assert has_text_path(Image.new("RGB", (1, 1)))
    assert has_text_path(None)
