import json
from pathlib import Path

import pytest

from clipkit.data import load_data
from clipkit.data.folder import read_folder, unread_tables
from clipkit.data.label_captions import caption_labels
from clipkit.errors import DataError
from clipkit.evaluate.tasks import Task
from tests.conftest import square


def test_captions_beside_the_images(photos: Path) -> None:
    (photos / "red0.txt").write_text("one\n\ntwo\n")
    (photos / "red1.txt").unlink()
    (photos / "red1.json").write_text(json.dumps({"caption": "three", "label": "r", "n": 4}))
    samples, rejects = read_folder(photos)
    found = {sample.id: sample for sample in samples}
    assert not rejects
    assert found["red0.png"].captions == ("one", "two")
    assert found["red1.png"].captions == ("three",)
    assert found["red1.png"].label == "r"
    assert found["red1.png"].metadata == {"n": 4}
    assert [sample.id for sample in samples] == sorted(found)


def test_a_table_that_lies_in_the_folder_unread_is_named(photos: Path) -> None:
    names = [path.name for path in photos.iterdir() if path.suffix == ".png"]
    for path in photos.glob("*.txt"):
        path.unlink()
    bare = load_data(photos)
    assert unread_tables(bare.name, bare.samples) == ""
    lines = "\n".join(f"{name},words" for name in names)
    (photos / "told.csv").write_text(f"file,caption\n{lines}\n")
    for refused in (caption_labels, lambda data: Task().evaluators(data, "mine")):
        with pytest.raises(DataError, match=r"; told\.csv in it was not read: give that file"):
            refused(load_data(photos))
    told = load_data(photos / "told.csv")
    assert {sample.captions for sample in told} == {("words",)}
    (photos / "told.csv").write_text("file,size\n" + "\n".join(f"{name},1" for name in names))
    with pytest.raises(DataError, match="name their column"):
        caption_labels(load_data(photos / "told.csv"))


def test_sub_folders_are_classes(classes: Path) -> None:
    samples, _ = read_folder(classes)
    assert {sample.label for sample in samples} == {path.name for path in classes.iterdir()}
    assert all(sample.id.startswith(str(sample.label)) for sample in samples)


def test_deeper_folders_are_no_classes(classes: Path) -> None:
    (classes / "red" / "deep").mkdir()
    square("red").save(classes / "red" / "deep" / "x.png")
    assert all(sample.label is None for sample in read_folder(classes)[0])


def test_metadata_file_of_hugging_face(photos: Path) -> None:
    rows = ["file_name,text", "red0.png,a caption", "gone.png,x"]
    (photos / "metadata.csv").write_text("\n".join(rows))
    samples, rejects = read_folder(photos)
    assert [(s.id, s.captions) for s in samples] == [("red0.png", ("a caption",))]
    assert len(rejects) == 18
    assert {r.reason for r in rejects} == {"file not found", "not named in metadata.csv"}


def test_broken_captions_are_rejects(photos: Path) -> None:
    (photos / "red0.txt").write_text("")
    (photos / "red1.txt").write_bytes(b"\xff\xfe\xfa")
    (photos / "red2.txt").unlink()
    (photos / "red2.json").write_text("[]")
    samples, rejects = read_folder(photos)
    assert len(samples) == 15
    assert {r.id for r in rejects} == {"red0.png", "red1.png", "red2.png"}


def test_hidden_files_and_loops_are_left_out(photos: Path) -> None:
    square("red").save(photos / ".hidden.png")
    (photos / "loop").symlink_to(photos)
    assert len(read_folder(photos)[0]) == 18


def test_endings_in_any_case(tmp_path: Path) -> None:
    square("red").save(tmp_path / "A.JPG", "JPEG")
    assert [s.id for s in read_folder(tmp_path)[0]] == ["A.JPG"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        read_folder(tmp_path / "missing")
