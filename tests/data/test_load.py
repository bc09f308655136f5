from pathlib import Path

import pytest

from clipkit.data import Dataset, load_data
from clipkit.errors import DataError, MissingExtraError


def test_folder_table_and_dataset(photos: Path) -> None:
    data = load_data(photos)
    assert (data.name, len(data), data.class_names) == ("photos", 18, ())
    assert load_data(data) is data
    (photos / "t.csv").write_text("image,caption,split\nred0.png,x,a\nred1.png,y,b\n")
    assert [s.id for s in load_data(f"{photos}/t.csv@b")] == ["red1.png"]
    assert len(load_data(photos / "t.csv")) == 2


def test_root_and_columns(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("pic,words,sort\nred0.png,x,r\n")
    data = load_data(
        table, image_column="pic", caption_column="words", label_column="sort", root=photos
    )
    assert data[0].captions == ("x",)
    assert data.class_names == ("r",)
    with pytest.raises(DataError, match="not a Dataset"):
        load_data(data, root=photos)
    with pytest.raises(DataError, match="no columns"):
        load_data(photos, image_column="pic")


def test_a_manifest_of_ones_own(photos: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "mine.yaml"
    manifest.write_text(
        "name: mine\nsource: {kind: table, root: photos, rows: [{image: red0.png, label: red},"
        " {image: blue0.png, label: blue}, {image: green0.png, label: grass}]}\n"
        "class_names: [red, blue]\n"
    )
    data = load_data(manifest)
    assert data.class_names == ("red", "blue")
    assert [(r.id, r.reason) for r in data.rejects] == [
        ("green0.png", "label is not among class_names")
    ]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("openmojy", "did you mean 'openmoji'"),
        ("/no/such/place", "neither a file or folder nor a manifest"),
        ("skimage_photos@train", "no split 'train'"),
        ("openmoji@tran", "did you mean 'train'"),
    ],
)
def test_names_that_lead_nowhere(data: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        load_data(data)


def test_files_of_another_kind_and_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(DataError, match="neither a folder nor one of"):
        load_data(tmp_path / "notes.doc")
    (tmp_path / "t.csv").write_text("image,caption\ngone.png,x\n")
    with pytest.raises(
        DataError, match=r"no row that can be used \(1 row rejected: 1 file not found"
    ):
        load_data(tmp_path / "t.csv")


def test_a_manifest_cannot_lead_out_of_its_root(photos: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "mine.yaml"
    manifest.write_text("name: m\nsource: {kind: table, root: photos, path: ../../etc/x.csv}\n")
    with pytest.raises(DataError, match="leads out of its root"):
        load_data(manifest)
    manifest.write_text("name: m\nsource: {kind: folder, root: 'package:skimage/../..'}\n")
    with pytest.raises(DataError, match="leads out of its root"):
        load_data(manifest)


def test_a_package_that_is_not_installed(tmp_path: Path) -> None:
    manifest = tmp_path / "mine.yaml"
    manifest.write_text("name: m\nsource: {kind: folder, root: 'package:no_such_package/x'}\n")
    with pytest.raises((DataError, MissingExtraError), match="no_such_package"):
        load_data(manifest)
    assert isinstance(load_data("example_table"), Dataset)
