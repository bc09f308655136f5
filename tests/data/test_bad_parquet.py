"""Parquet and Arrow files with cells that hold nothing, or the wrong thing, and broken files."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.bad_input import NOT_TEXT, ODD_FILES, Build, Case, check, odd_files, with_pictures

RED_GREEN: dict[str, tuple[str, ...]] = {"red.png": ("r",), "green.png": ("g",)}


def parquet(**columns: Any) -> Build:
    """Have pyarrow write a table."""
    return with_pictures("t.parquet", lambda path: pq.write_table(pa.table(columns), path))


def two_of_one_name(path: Path) -> None:
    columns = [pa.array(["red.png"]), pa.array(["r"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.table(columns, names=["image", "caption", "n", "n"]), path)


def latin(*texts: str) -> pa.Array:
    """Return text as some programs leave it: called UTF-8, but it is not."""
    raw = pa.array([each.encode("latin-1") for each in texts])
    return pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])


def cut_parquet(path: Path) -> None:
    columns = {"image": "red.png", "caption": "r"}
    pd.DataFrame(columns, index=range(1000)).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


def spoilt_parquet(path: Path) -> None:
    frame = pd.DataFrame({"image": "red.png", "caption": [f"r {n}" for n in range(5000)]})
    frame.to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[:300] + bytes(2000) + content[2300:])


STRUCTS = [
    {"bytes": b"", "path": "red.png"},
    {"bytes": None, "path": None},
    None,
    {"bytes": None, "path": "green.png"},
    {"bytes": b"no picture", "path": "blue.png"},
]

COLUMNAR = {
    "nulls": Case(
        parquet(image=["red.png", None, "blue.png"], caption=["r", "x", None]),
        rows=3,
        usable={"red.png": ("r",)},
        rejects=[("1", "no image named"), ("blue.png", "empty caption")],
    ),
    "names that are only spaces": Case(
        parquet(image=["red.png", "\u00a0", "\x0b"], caption=["r", "x", "\u2003"]),
        rows=3,
        usable={"red.png": ("r",)},
        rejects=[("1", "no image named"), ("2", "no image named")],
    ),
    "structs of bytes and path": Case(
        parquet(image=STRUCTS, caption=list("rxygb")),
        rows=5,
        usable={"3": ("g",)},
        rejects=[
            ("0", "file is empty"),
            ("1", "no image named"),
            ("2", "no image named"),
            ("4", "cannot identify image file"),
        ],
    ),
    "structs without any bytes": Case(
        parquet(image=[{"bytes": None, "path": "red.png"}, {"bytes": None, "path": None}]),
        rows=2,
        usable={"0": ()},
        rejects=[("1", "no image named")],
    ),
    "captions that are no text": Case(
        parquet(image=["red.png", "blue.png", "green.png"], caption=["r", "b\0", "g"]),
        rows=3,
        usable=RED_GREEN,
        rejects=[("blue.png", NOT_TEXT)],
    ),
    "lists with captions that are none": Case(
        parquet(
            image=["red.png", "blue.png", "green.png"], caption=[["r", "nan"], [None, ""], ["g"]]
        ),
        rows=4,
        usable=RED_GREEN,
        rejects=[("red.png", "empty caption"), ("blue.png", "empty caption")],
        partly=frozenset(["red.png"]),
    ),
    "captions that are not UTF-8": Case(
        parquet(image=["red.png", "green.png"], caption=latin("r", "grün")),
        error=r"t\.parquet: column 'caption' cannot be read: Invalid UTF8 sequence at string ind",
    ),
    "ids of two images": Case(
        parquet(image=["red.png", "blue.png", "green.png"], id=[7, 7, None]),
        rows=3,
        usable={"7": (), "green.png": ()},
        rejects=[("7", "id is that of another image")],
        partly=frozenset("7"),
    ),
    "ids that are bytes": Case(
        parquet(image=["red.png", "green.png"], id=[b"\xff", b"\xfe"]),
        rows=2,
        usable={r"b'\xff'": (), r"b'\xfe'": ()},
    ),
    "labels that are lists": Case(
        parquet(image=["red.png", "green.png"], caption=["r", "g"], labels=[["x"], ["x", "y"]]),
        rows=2,
        usable=RED_GREEN,
    ),
    "images that are pipes, folders and loops": replace(
        ODD_FILES, build=with_pictures("t.parquet", odd_files)
    ),
    "columns of one name": Case(
        with_pictures("t.parquet", two_of_one_name),
        error=r"t\.parquet names a column twice: 'image', 'caption', 'n', 'n'",
    ),
    "images that are numbers": Case(
        parquet(image=[1, 2]), error="column 'image' holds int64; an image is a path, bytes, or a"
    ),
    "cut": Case(
        with_pictures("t.parquet", cut_parquet), error=r"t\.parquet cannot be read as parquet: Parq"
    ),
    "spoilt in the middle": Case(
        with_pictures("t.parquet", spoilt_parquet), error=r"t\.parquet cannot be read"
    ),
    "no rows": Case(parquet(image=pa.array([], pa.string())), error="no row that can be used"),
    "Arrow that is text": Case(
        with_pictures("t.arrow", lambda path: path.write_text("image,caption\n")),
        error=r"t\.arrow cannot be read as Arrow",
    ),
    "pipe": Case(with_pictures("t.parquet", os.mkfifo), error="is neither a file nor a folder"),
}


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("kind", COLUMNAR)
def test_columns_on_disk(
    kind: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.data.parquet.IN_MEMORY", limit)
    check(COLUMNAR[kind], tmp_path)
