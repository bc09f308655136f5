from pathlib import Path

import pytest

from clipkit.data.paths import list_paths, read_lines
from clipkit.errors import DataError


def test_paths_are_samples_in_their_order() -> None:
    data = list_paths(["b.png", Path("a/ü.jpg"), "", "c.png", "b.png"], "mine")
    assert data.name == "mine"
    assert [sample.id for sample in data] == ["b.png", "a/ü.jpg", "c.png"]
    assert [sample.image for sample in data] == [Path("b.png"), Path("a/ü.jpg"), Path("c.png")]
    assert [(r.id, r.where) for r in data.rejects] == [("b.png", "mine line 4")]
    assert [sample.id for sample in data.samples[1:]] == ["a/ü.jpg", "c.png"]


def test_a_name_that_is_not_utf8_stays_that_file(tmp_path: Path) -> None:
    raw = bytes(tmp_path / "x") + b"\xff.png"
    file = tmp_path / "list.txt"
    file.write_bytes(raw + b"\r\nother.png\n\n")
    data = list_paths(read_lines(file))
    assert len(data) == 2
    assert bytes(Path(data[0].image)) == raw  # type: ignore[arg-type]
    data[0].id.encode()  # an id is text


def test_no_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no path"):
        list_paths([])
    with pytest.raises(DataError, match=r"gone\.txt cannot be read"):
        read_lines(tmp_path / "gone.txt")
