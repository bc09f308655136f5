"""One table in four shapes on disk: each must say the same of the same rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipkit.data.columnar import ColumnarSamples, Rows
from clipkit.data.hub import open_hub
from clipkit.data.jsonl import JsonRows
from clipkit.data.parquet import open_arrow_file
from clipkit.data.scan import read_columnar
from clipkit.data.table import Columns
from clipkit.errors import DataError

ROWS = [
    {"image": "red0.png", "caption": "one", "split": "a"},
    {"image": "red1.png", "caption": "two", "split": "b"},
    {"image": "red0.png", "caption": "three", "split": "a"},
    {"image": "gone.png", "caption": "four", "split": "a"},
    {"image": "blue0.png", "caption": "nan", "split": "a"},
    {"image": "blue0.png", "caption": "", "split": "a"},
    {"image": "blue1.png", "caption": None, "split": "b"},
    {"image": "../x.png", "caption": "five", "split": "a"},
    {"image": "http://x.org/y.png", "caption": "six", "split": "a"},
    {"image": None, "caption": "seven", "split": "a"},
    {"image": "blue1.png", "caption": " eight ", "split": "b"},
]
REASONS = [
    "empty caption",
    "empty caption",
    "empty caption",
    "path leads out of the root folder",
    "image is an address, not a file",
    "no image named",
    "file not found",
]


def parquet(folder: Path, frame: pd.DataFrame) -> Rows:
    frame.to_parquet(folder / "t.parquet")
    return open_arrow_file(folder / "t.parquet")


def large_parquet(folder: Path, frame: pd.DataFrame) -> Rows:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipkit.data.parquet.IN_MEMORY", 0)
        patch.setattr("clipkit.data.parquet._BATCH_BYTES", 200)
        return parquet(folder, frame)


def feather(folder: Path, frame: pd.DataFrame) -> Rows:
    frame.to_feather(folder / "t.feather")
    return open_arrow_file(folder / "t.feather")


def jsonl(folder: Path, frame: pd.DataFrame) -> Rows:
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    return JsonRows(folder / "t.jsonl")


def saved(folder: Path, frame: pd.DataFrame) -> Rows:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_pandas(frame).save_to_disk(folder / "saved")
    return open_hub(str(folder / "saved"))


Open = Callable[[Path, pd.DataFrame], Rows]
every_shape = pytest.mark.parametrize("shape", [parquet, large_parquet, feather, jsonl, saved])


@every_shape
def test_each_row_is_used_or_listed(shape: Open, photos: Path, tmp_path: Path) -> None:
    rows = shape(tmp_path, pd.DataFrame(ROWS))
    samples, rejects = read_columnar(rows, root=photos)
    assert [(s.id, s.captions, s.metadata["split"]) for s in samples] == [
        ("red0.png", ("one", "three"), "a"),
        ("red1.png", ("two",), "b"),
        ("blue1.png", ("eight",), "b"),
    ]
    assert samples[0].image == photos / "red0.png"
    assert [reject.reason for reject in rejects] == REASONS
    assert sum(len(s.captions) for s in samples) + len(rejects) == len(ROWS) == len(rows)
    first = 1 if shape is jsonl else 0
    assert rejects[0].where.endswith(f" {4 + first}")
    assert samples.captioned


@every_shape
def test_access(shape: Open, photos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in photos.glob("*.png")) * 40
    table = pd.DataFrame({"image": names, "n": range(len(names)), "label": ["x", "y", None] * 240})
    rows = shape(tmp_path, table)
    assert sum(batch.num_rows for batch in rows.batches(["n"])) == len(rows) == 720
    assert [rows.row(at)["n"] for at in (719, 0, 360)] == [719, 0, 360]
    samples, rejects = read_columnar(rows, root=photos)
    assert not rejects
    assert (len(samples), samples[-1], samples.labels()) == (18, samples[17], ["x", "y"])
    assert [s.id for s in samples[2:4]] == [samples[2].id, samples[3].id]
    assert list(samples.take(np.array([5, 1]))) == [samples[5], samples[1]]
    assert not samples.captioned
    with pytest.raises(IndexError):
        samples[18]
    assert rows.digest() == rows.digest() != shape(tmp_path, table[:-1]).digest()


@every_shape
def test_ids_that_occur_twice(shape: Open, photos: Path, tmp_path: Path) -> None:
    images = ["red0.png", "red1.png", "red2.png", "blue0.png"]
    table = pd.DataFrame({"image": images, "caption": ["", "a", "b", "c"], "id": [1, 2, 2, 4]})
    samples, rejects = read_columnar(shape(tmp_path, table), root=photos)
    assert [s.id for s in samples] == ["2", "4"]
    assert [(r.id, r.reason) for r in rejects] == [
        ("1", "empty caption"),
        ("2", "id is that of another image"),
    ]


@every_shape
def test_only_rows_that_are_wanted(shape: Open, photos: Path, tmp_path: Path) -> None:
    samples, rejects = read_columnar(
        shape(tmp_path, pd.DataFrame(ROWS)), root=photos, keep=lambda row, _: row["split"] == "b"
    )
    assert [s.id for s in samples] == ["red1.png", "blue1.png"]
    assert [r.reason for r in rejects] == ["empty caption"]


@every_shape
def test_columns(shape: Open, photos: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"pic": ["red0.png"], "words": ["x"]})
    rows = shape(tmp_path, table)
    with pytest.raises(DataError, match=r"no column of images.*'pic', 'words'"):
        read_columnar(rows, root=photos)
    with pytest.raises(DataError, match="no column 'pix' for image"):
        read_columnar(rows, root=photos, columns=Columns("pix"))
    samples, _ = read_columnar(rows, root=photos, columns=Columns("pic", "words"))
    assert isinstance(samples, ColumnarSamples)
    assert samples[0].captions == ("x",)


def test_class_names_by_their_number(photos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Value("string"), "label": datasets.ClassLabel(names=["n1", "n2"])}
    )
    told = {"image": ["red0.png", "red1.png", "red2.png"], "label": [1, 0, None]}
    datasets.Dataset.from_dict(told, features=features).to_parquet(tmp_path / "t.parquet")
    rows = open_arrow_file(tmp_path / "t.parquet")
    samples, _ = read_columnar(rows, root=photos)
    assert [s.label for s in samples] == ["n2", "n1", None]
    assert samples.labels() == ["n1", "n2"]
    named, _ = read_columnar(rows, root=photos, class_names=["cat", "dog"])
    assert [s.label for s in named] == ["dog", "cat", None]
    with pytest.raises(DataError, match="has 2 classes in column 'label', and 3 class_names"):
        read_columnar(rows, root=photos, class_names=["cat", "dog", "fox"])
