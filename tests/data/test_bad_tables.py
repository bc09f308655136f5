"""Tables with broken rows, and files that are no tables: each row is used or listed, once."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clipkit import load_data
from tests.data.bad_input import NOT_TEXT, ODD_FILES, Build, Case, check, odd_files, with_pictures

RED_GREEN: dict[str, tuple[str, ...]] = {"red.png": ("r",), "green.png": ("g",)}
LONG = "word " * 220_000 + "end"


def text(name: str, content: str | bytes) -> Build:
    raw = content if isinstance(content, bytes) else content.encode()
    return with_pictures(name, lambda path: path.write_bytes(raw))


def csv(*lines: str, head: str = "image,caption") -> Build:
    return text("t.csv", "\n".join([head, *lines, ""]))


def written_csv(columns: Mapping[str, list[Any]], **options: Any) -> Build:
    """Have pandas write a table."""
    frame = pd.DataFrame(columns)
    return with_pictures("t.csv", lambda path: frame.to_csv(path, index=False, **options))


def twice_named(path: Path) -> None:
    pd.DataFrame([["red.png", "r", "x"]], columns=["image", "text", "text"]).to_csv(path)


DELIMITED = {
    "byte order mark": Case(
        written_csv({"image": ["red.png"], "caption": ["röt"]}, encoding="utf-8-sig"),
        rows=1,
        usable={"red.png": ("röt",)},
    ),
    "captions that are not UTF-8": Case(
        written_csv({"image": ["red.png"], "caption": ["röt"]}, encoding="latin-1"),
        error=r"t\.csv is not UTF-8 text \(byte 23 is 0xf6\); save it as UTF-8",
    ),
    "UTF-16": Case(
        written_csv({"image": ["red.png"], "caption": ["r"]}, encoding="utf-16"),
        error=r"t\.csv is not UTF-8 text \(byte 0 is 0xff\)",
    ),
    "too few and too many fields": Case(
        csv("red.png,1,r", "green.png", "blue.png,2,b,more", head="image,label,caption"),
        rows=3,
        usable={"red.png": ("r",)},
        rejects=[("line 3", "fewer fields than columns"), ("line 4", "more fields than columns")],
    ),
    "quote that is never closed": Case(
        csv('blue.png,1,"b', "red.png,1,r", "green.png,2,g", head="image,label,caption"),
        rows=3,
        usable=RED_GREEN,
        rejects=[("line 2", 'stray quote (")')],
    ),
    "quote that is never closed in the head": Case(
        csv("red.png,r", head='"image,caption'), error="stray quote .* in the line that names its"
    ),
    "NUL": Case(
        csv("red.png,r", "blue.png,b\0b", "green.png,g"),
        rows=3,
        usable=RED_GREEN,
        rejects=[("line 3", "NUL character in the line")],
    ),
    "columns of one name": Case(
        with_pictures("t.csv", twice_named), error=r"t\.csv names a column twice: '', 'image', 'te"
    ),
    "ids of two images": Case(
        written_csv({"id": [7, 7, 8], "image": ["red.png", "blue.png", "green.png"]}),
        rows=3,
        usable={"7": (), "8": ()},
        rejects=[("7", "id is that of another image")],
        partly=frozenset("7"),
    ),
    "labels that differ": Case(
        csv("red.png,1,r", "red.png,2,r again", "green.png,2,g", head="image,label,caption"),
        rows=3,
        usable=RED_GREEN,
        rejects=[("red.png", "label differs from an earlier row of the image")],
        partly=frozenset(["red.png"]),
    ),
    "captions that are none": Case(
        written_csv(
            {
                "image": ["red.png"] * 6 + ["green.png", "blue.png"],
                "caption": ["r", None, "None", "null", "NaN", " \t\u00a0", "g", float("nan")],
            }
        ),
        rows=8,
        usable=RED_GREEN,
        rejects=[(name, "empty caption") for name in ["red.png"] * 5 + ["blue.png"]],
        partly=frozenset(["red.png"]),
    ),
    "a caption of a megabyte": Case(
        written_csv({"image": ["red.png"], "caption": [LONG]}), rows=1, usable={"red.png": (LONG,)}
    ),
    "images that are no file here": Case(
        csv("red.png,r", "../x.png,x", "http://x.org/y.png,y", "gone.png,z", ",n", "green.png,g"),
        rows=6,
        usable=RED_GREEN,
        rejects=[
            ("../x.png", "path leads out of the root folder"),
            ("http://x.org/y.png", "image is an address, not a file"),
            ("gone.png", "file not found"),
            ("line 6", "no image named"),
        ],
    ),
    "images with names that no file can have": Case(
        csv("red.png,r", "x" * 300 + ".png,x"),
        rows=2,
        usable={"red.png": ("r",)},
        rejects=[("x" * 300 + ".png", "file cannot be read: File name too long")],
    ),
    "images that are pipes, folders and loops": replace(
        ODD_FILES, build=with_pictures("t.csv", odd_files)
    ),
    "no column of images": Case(
        written_csv({"picture": ["red.png"], "words": ["r"]}),
        error=r"no column of images that is recognised; its columns are 'picture', 'words'; name o",
    ),
    "column that was asked for": Case(
        written_csv({"picture": ["red.png"]}),
        options={"image_column": "pictures"},
        error="no column 'pictures' for image; its columns are 'picture'; did you mean 'picture'",
    ),
    "empty": Case(text("t.csv", ""), error=r"t\.csv is empty"),
    "blank lines": Case(text("t.csv", "\n \n\n"), error=r"t\.csv is empty"),
    "head alone": Case(
        written_csv({"image": [], "caption": []}), error=r"has no row that can be used \(no rows re"
    ),
    "table with a name that is not UTF-8": Case(
        text(os.fsdecode(b"caf\xe9.csv"), "image,caption\nred.png,r\nblue.png,\n"),
        rows=2,
        usable={"red.png": ("r",)},
        rejects=[("blue.png", "empty caption")],
    ),
    "pipe": Case(with_pictures("t.csv", os.mkfifo), error=r"t\.csv is neither a file nor a folder"),
    "table that may not be read": Case(
        with_pictures("t.csv", lambda path: path.touch(0)),
        error=r"t\.csv cannot be read: Permission denied",
        as_user=True,
    ),
    "token file": Case(
        text("f.token", "red.png#0\tr\nblue.png\tb\ngreen.png#1\tg\ngone.png#0\tx\nred.png#1\t\n"),
        rows=5,
        usable=RED_GREEN,
        rejects=[
            ("line 2", "not IMAGE#NUMBER, a tab, a caption"),
            ("gone.png", "file not found"),
            ("red.png", "empty caption"),
        ],
        partly=frozenset(["red.png"]),
    ),
}


def jsonl(*rows: Any) -> Build:
    """Write a row a line: what is text already as it is, anything else as JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return text("t.jsonl", "\n".join([*lines, ""]))


def row(image: Any = "red.png", caption: Any = "r", **more: Any) -> dict[str, Any]:
    return {"image": image, "caption": caption, **more}


GREEN = row("green.png", "g")

JSON_LINES = {
    "byte order mark": Case(
        text("t.jsonl", "\ufeff" + json.dumps(row())), rows=1, usable={"red.png": ("r",)}
    ),
    "broken lines": Case(
        jsonl(row(), '{"image": "blue.png"', "[1]", "[" * 100_000, "", json.dumps(GREEN)),
        rows=5,
        usable=RED_GREEN,
        rejects=[(f"line {number}", "not a JSON object") for number in (2, 3, 4)],
    ),
    "half a surrogate pair in a caption": Case(
        jsonl(row(), r'{"image": "blue.png", "caption": "\ud83d!"}', GREEN),
        rows=3,
        usable=RED_GREEN,
        rejects=[("line 2", "not a JSON object")],
    ),
    "the other half, in something else": Case(
        jsonl(row(), r'{"image": "blue.png", "caption": "b", "x": "\ude00"}', GREEN),
        rows=3,
        usable=RED_GREEN,
        rejects=[("line 2", "not a JSON object")],
    ),
    "both halves": Case(jsonl(row(caption="\U0001f600")), rows=1, usable={"red.png": ("😀",)}),
    "captions of all kinds": Case(
        jsonl(row(caption=["r", "", None, "s"]), row("green.png", 7), row("blue.png", ["", None])),
        rows=6,
        usable={"red.png": ("r", "s"), "green.png": ("7",)},
        rejects=[(name, "empty caption") for name in ("red.png", "red.png", "blue.png")],
        partly=frozenset(["red.png"]),
    ),
    "captions that are no text": Case(
        jsonl(row(), row("blue.png", {"raw": "b"}), row("blue.png", "b\0b"), GREEN),
        rows=4,
        usable=RED_GREEN,
        rejects=[("blue.png", "caption is not text"), ("blue.png", NOT_TEXT)],
    ),
    "rows without an image": Case(
        jsonl(row(id=1), {"id": 2, "caption": "x"}, row(None, id=3), row("", id=4)),
        rows=4,
        usable={"1": ("r",)},
        rejects=[(id_, "no image named") for id_ in "234"],
    ),
    "a caption of a megabyte": Case(jsonl(row(caption=LONG)), rows=1, usable={"red.png": (LONG,)}),
    "pipe": Case(with_pictures("t.jsonl", os.mkfifo), error="is neither a file nor a folder"),
}


def coco(images: list[Any], annotations: list[Any]) -> Build:
    return text("c.json", json.dumps({"images": images, "annotations": annotations}))


def picture(id_: Any, name: str) -> dict[str, Any]:
    return {"id": id_, "file_name": name}


def note(id_: Any, caption: Any) -> dict[str, Any]:
    return {"image_id": id_, "caption": caption}


COCO = {
    "no JSON": Case(text("c.json", '{"images": ['), error=r"c\.json is not JSON: Expecting value"),
    "other JSON": Case(
        text("c.json", '{"type": "FeatureCollection"}'),
        error="has not COCO's lists `images` and `annotations`, but type",
    ),
    "rows that do not meet": Case(
        coco(
            [picture(1, "red.png"), picture(2, "blue.png"), picture(1, "green.png"), {"id": 4}],
            [note(1, "r"), note(9, "x"), note(1, "s"), note(9, "y"), {"image_id": 1}],
        ),
        rows=8,
        usable={"1": ("r", "s")},
        rejects=[
            ("annotation 4", "annotation has no caption"),
            ("blue.png", "image has no annotation"),
            ("1", "id is that of another image"),
            ("image 3", "image has no id or file_name"),
            ("image 9", "annotation of an image that is not listed"),
            ("image 9", "annotation of an image that is not listed"),
        ],
        partly=frozenset("1"),
    ),
    "captions that are none": Case(
        coco(
            [picture(1, "red.png"), picture(2, "../x.png"), picture(3, "blue.png")],
            [note(1, "r"), note(1, None), note(1, "\ud83d"), note(2, "x"), note(3, "")],
        ),
        rows=5,
        usable={"1": ("r",)},
        rejects=[
            ("1", "empty caption"),
            ("1", NOT_TEXT),
            ("2", "path leads out of the root folder"),
            ("3", "empty caption"),
        ],
        partly=frozenset("1"),
    ),
}


@pytest.mark.parametrize("kind", DELIMITED)
def test_lines_of_fields(kind: str, tmp_path: Path) -> None:
    check(DELIMITED[kind], tmp_path)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("kind", JSON_LINES)
def test_json_lines(kind: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.data.load.LARGE_TABLE", limit)
    check(JSON_LINES[kind], tmp_path)


@pytest.mark.parametrize("kind", COCO)
def test_coco(kind: str, tmp_path: Path) -> None:
    check(COCO[kind], tmp_path)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])
def test_class_names_are_the_labels_of_usable_rows(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.data.load.LARGE_TABLE", limit)
    rows = [row(label=7), row("green.png", label=1.5), row("blue.png", label="x")]
    data = load_data(jsonl(*rows, row("red.png", "", label="of no usable row"))(tmp_path))
    assert data.class_names == ("1.5", "7", "x")
    assert [sample.label for sample in data] == ["7", "1.5", "x"]
