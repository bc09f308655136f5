import json
import os
from pathlib import Path

import pytest

from clipkit.data.table import Columns, inside, is_nothing, read_rows, read_table
from clipkit.errors import DataError
from tests.conftest import square


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        square("red").save(tmp_path / name)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "separator"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.csv", "|")]
)
def test_separators_and_usual_names(folder: Path, name: str, separator: str) -> None:
    lines = ["file_name,label,text,year", "a.png,cat,a cat,1999", "b.png,dog,a dog,2001"]
    path = write(folder, name, "\n".join(line.replace(",", separator) for line in lines))
    samples, rejects = read_table(path)
    assert not rejects
    assert [s.captions for s in samples] == [("a cat",), ("a dog",)]
    assert [s.label for s in samples] == ["cat", "dog"]
    assert samples[0].metadata == {"year": "1999"}
    assert samples[0].image == folder / "a.png"


def test_rows_of_one_image_become_one_sample(folder: Path) -> None:
    path = write(folder, "t.csv", "image,caption\na.png,one\nb.png,two\na.png,three\n")
    samples, _ = read_table(path)
    assert [(s.id, s.captions) for s in samples] == [
        ("a.png", ("one", "three")),
        ("b.png", ("two",)),
    ]


def test_commas_in_an_unquoted_caption_belong_to_it(folder: Path) -> None:
    path = write(folder, "t.csv", 'image,caption\na.png,red, green and blue\nb.png,"x, ""y"""\n')
    samples, rejects = read_table(path)
    assert not rejects
    assert [s.captions[0] for s in samples] == ["red, green and blue", 'x, "y"']


def test_json_lines_with_lists_and_a_byte_order_mark(folder: Path) -> None:
    rows = [
        {"image": "a.png", "captions": ["one", "two", None]},
        {"image": "b.png", "captions": "x"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n[1]\n"
    path = folder / "t.jsonl"
    path.write_text(text, encoding="utf-8-sig")
    samples, rejects = read_table(path)
    assert [s.captions for s in samples] == [("one", "two"), ("x",)]
    assert sorted(r.reason for r in rejects) == ["empty caption", "not a JSON object"]


def test_every_row_ends_somewhere(folder: Path) -> None:
    text = "image,caption\na.png,fine\nb.png,\nb.png,nan\nmissing.png,x\n../out.png,x\n,none\n"
    samples, rejects = read_table(write(folder, "t.csv", text))
    assert [s.id for s in samples] == ["a.png"]
    reasons = [r.reason for r in rejects]
    assert reasons.count("empty caption") == 2
    assert {"file not found", "path leads out of the root folder", "no image named"} <= set(reasons)
    assert len(samples) + len(rejects) == 6
    assert all("t.csv line" in r.where for r in rejects)


def test_a_stray_quote_costs_one_row_only(folder: Path) -> None:
    text = 'image,label,caption\na.png,x,"broken\nb.png,x,fine\nc.png,x,fine too\n'
    samples, rejects = read_table(write(folder, "t.csv", text))
    assert [s.id for s in samples] == ["b.png", "c.png"]
    assert len(rejects) == 1


def test_columns_that_are_not_there(folder: Path) -> None:
    path = write(folder, "t.csv", "picture,words\na.png,x\n")
    with pytest.raises(DataError, match="'picture', 'words'"):
        read_table(path)
    with pytest.raises(DataError, match="did you mean 'picture'"):
        read_table(path, columns=Columns(image="pictur"))
    samples, _ = read_table(path, columns=Columns(image="picture", caption="words"))
    assert samples[0].captions == ("x",)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"image,caption\na.png,\xff\xfe", "not UTF-8"),
        ("t.csv", b"image,image\na.png,b.png\n", "twice"),
        ("t.xlsx", b"x", "not one of"),
    ],
)
def test_files_that_are_no_table(folder: Path, name: str, content: bytes, word: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=word):
        read_table(folder / name)


def test_rows_of_a_manifest(folder: Path) -> None:
    rows: list[dict[str, object]] = [
        {"image": "a.png", "caption": "x"},
        {"image": "b.png", "caption": 7},
    ]
    samples, rejects = read_rows(rows, where="m.yaml", root=folder)
    assert [s.captions for s in samples] == [("x",), ("7",)]
    assert not rejects


@pytest.mark.parametrize("root", [".", "..", "a/.."])
def test_nothing_leads_out_of_a_root_without_a_name(root: str) -> None:
    assert inside(Path(root), "../b") is None
    assert inside(Path(root), "a/../../b") is None
    assert inside(Path(root), "a/../b") == Path(os.path.normpath(f"{root}/b"))


def test_inside_and_nothing(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/../b") == tmp_path / "b"
    assert inside(tmp_path, "../b") is None
    assert inside(tmp_path, f"../{tmp_path.name}/b") == tmp_path / "b"
    assert inside(tmp_path, "..b/c") == tmp_path / "..b/c"
    assert inside(tmp_path, "/b") is None
    assert [is_nothing(x) for x in (None, "", " NaN ", "None", 0, "cat")] == [True] * 4 + [
        False
    ] * 2
