from pathlib import Path

import pytest

from clipkit.data import list_manifests, read_manifest
from clipkit.errors import DataError


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


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(DataError, match="did you mean 'openmoji'"):
        read_manifest("openmojy")
