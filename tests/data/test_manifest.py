from pathlib import Path

import pytest

from clipkit.data import list_manifests, read_manifest
from clipkit.errors import DataError
from clipkit.imagenet import imagenet_class_names, imagenet_templates


@pytest.mark.parametrize("name", sorted(list_manifests()))
def test_every_manifest_that_ships_is_whole(name: str) -> None:
    manifest = read_manifest(name)
    assert manifest.name == name
    assert manifest.licence
    assert manifest.homepage.startswith("https://")
    assert manifest.title


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "licnce: x\nsource: {kind: tabel}\ntemplates: [no place]\ncolumns: {imag: a}\n"
        "splits: {train: {files: x}}\nclass_names: [a, a]\n",
    )
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    text = str(caught.value)
    for word in (
        "did you mean 'licence'",
        "name is missing",
        "did you mean 'table'",
        "'no place'",
        "did you mean 'image'",
        "split 'train'",
        "a name twice",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[1, 2]", "not a mapping"),
        ("a: [", "not YAML"),
        ("name: x\nsource: {kind: table}", "either a path or rows"),
        ("name: x\nsource: {kind: folder}", "no root"),
        ("name: x\nsource: {kind: folder, root: 3}", "not text"),
        ("name: x\nsource: {kind: table, path: a, rot: b}", "did you mean 'root'"),
        ("name: x\nsource: {kind: table, rows: 3}", "rows is not a list"),
    ],
)
def test_single_problems(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        read_manifest(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class_names: imagnet", "class_names is neither a list nor the name of one: 'imagnet'"),
        ("templates: imagnet", "templates is neither a list nor the name of one: 'imagnet'"),
    ],
)
def test_a_list_of_an_unknown_name(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, f"name: x\nsource: {{kind: hub, path: a/b}}\n{text}\n")
    with pytest.raises(DataError, match=f"{told}; did you mean 'imagenet'"):
        read_manifest(path)


def test_lists_that_are_called_by_their_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: x\nsource: {kind: hub, path: a/b}\nclass_names: imagenet\ntemplates: imagenet\n",
    )
    manifest = read_manifest(path)
    assert tuple(manifest.class_names) == imagenet_class_names()
    assert (len(manifest.templates), manifest.templates[-1]) == (80, imagenet_templates()[-1])


@pytest.mark.parametrize(
    ("source", "splits", "fault"),
    [
        ("kind: coco", "{a: {path: x.json, images: x}, b: {path: y.json}}", ""),
        ("kind: webdataset", "{a: {path: x.tar}}", ""),
        ("kind: table", "{a: {path: x.csv}}", ""),
        ("kind: table, rows: [{image: a.png}]", "{a: {path: x.csv}}", ""),
        ("kind: coco", "{a: {path: x.json}, b: {file: y.txt}}", "source has no path"),
        ("kind: coco", "{a: {images: x}}", "split 'a' is none of"),
        ("kind: table, path: a, rows: []", "{a: {path: x.csv}}", "either a path or rows"),
        ("kind: hub", "{a: {path: x}}", "source has no path, which a source of kind hub needs"),
    ],
)
def test_paths_that_only_the_splits_have(
    tmp_path: Path, source: str, splits: str, fault: str
) -> None:
    path = write(tmp_path, f"name: x\nsource: {{{source}}}\nsplits: {splits}\n")
    if not fault:
        assert "path" not in read_manifest(path).source
        return
    with pytest.raises(DataError, match=fault):
        read_manifest(path)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(DataError, match="did you mean 'openmoji'"):
        read_manifest("openmojy")
