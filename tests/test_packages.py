import hashlib
from pathlib import Path

import pytest

from clipkit.errors import MissingExtraError
from clipkit.packages import (
    cache_folder,
    default_threads,
    file_name,
    file_sha256,
    new_file,
    new_folder,
    package_folder,
    replace_file,
    shipped_folder,
)


def test_package_folder_finds_without_importing() -> None:
    assert (package_folder("PIL", what="x", extra="y") / "Image.py").is_file()
    with pytest.raises(MissingExtraError, match=r"clipkit\[y\]"):
        package_folder("no_such_package_here", what="x", extra="y")


def test_shipped_folders_are_there() -> None:
    assert list(shipped_folder("recipes").glob("*.yaml"))
    assert list(shipped_folder("data_manifests").glob("*.yaml"))


def test_file_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_cache_folder_follows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("CLIPKIT_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "clipkit"
    assert 1 <= default_threads() <= 8


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"half")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_by_others_appears_whole_too(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "deep" / "folder"
    for text in ("old", "new"):
        with new_file(path) as part, new_folder(folder) as staging:
            part.write_text(text)
            (staging / text).touch()
            assert part != path
    with pytest.raises(ValueError, match="no"), new_file(path) as part:
        part.write_text("half")
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), new_folder(folder) as staging:
        (staging / "half").touch()
        raise ValueError("no")
    assert path.read_text() == "new"
    assert [each.name for each in folder.iterdir()] == ["new"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["deep", "file"]
    assert list(folder.parent.iterdir()) == [folder]


def test_names_of_files() -> None:
    names = ["t-shirt", "a b", "a/b", "a_b", "..", "", ".hidden", "é", "x" * 300, "x" * 301]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert made[0] == "t-shirt"
    assert made[3] == "a_b"
    for name in made:
        assert not set(name) & set("/\\ ")
        assert not name.startswith(".")
        assert len(name) < 100
