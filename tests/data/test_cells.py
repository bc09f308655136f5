from pathlib import Path

import pyarrow as pa
import pytest

from clipkit.data.cells import image_source, plain_captions, plain_images, row_id
from clipkit.data.table import clean_captions
from clipkit.errors import DataError

ROOT = Path("/data/images")

IMAGES = [
    ("a.jpg", ROOT / "a.jpg"),
    (" b/c.jpg ", ROOT / "b/c.jpg"),
    ("/else/where.jpg", Path("/else/where.jpg")),
    (b"bytes", b"bytes"),
    ({"bytes": b"x", "path": "y.jpg"}, b"x"),
    ({"bytes": None, "path": "y.jpg"}, ROOT / "y.jpg"),
    (b"", "file is empty"),
    ({"bytes": None, "path": None}, "no image named"),
    (None, "no image named"),
    ("nan", "no image named"),
    ("../a.jpg", "path leads out of the root folder"),
    ("https://x.org/a.jpg", "image is an address, not a file"),
]


@pytest.mark.parametrize(("value", "expected"), IMAGES)
def test_what_a_cell_holds(value: object, expected: object) -> None:
    assert image_source(value, ROOT) == expected


@pytest.mark.parametrize(
    "values",
    [
        [value for value, _ in IMAGES if value is None or isinstance(value, str)],
        [value for value, _ in IMAGES if isinstance(value, bytes)],
        [value for value, _ in IMAGES if isinstance(value, dict)],
    ],
)
def test_cells_that_are_waved_through_hold_an_image(values: list[object]) -> None:
    flags = plain_images(pa.array(values), "t", "image")
    assert flags.any()
    for value, plain in zip(values, flags, strict=True):
        assert not (plain and isinstance(image_source(value, ROOT), str)), value


def test_a_column_that_holds_no_images() -> None:
    with pytest.raises(DataError, match="t: column 'image' holds int64; an image is a path"):
        plain_images(pa.array([1, 2]), "t", "image")


CAPTIONS: list[tuple[object, list[str], int]] = [
    ("a cat", ["a cat"], 0),
    ("  padded ", ["padded"], 0),
    ("", [], 1),
    ("NaN", [], 1),
    (None, [], 1),
    (7, ["7"], 0),
    (["a", "b"], ["a", "b"], 0),
    (["a", "", None], ["a"], 2),
    ([], [], 1),
    ({"a": 1}, [], 1),
]


@pytest.mark.parametrize(("value", "captions", "flaws"), CAPTIONS)
def test_captions_and_what_is_none(value: object, captions: list[str], flaws: int) -> None:
    told, reasons = clean_captions(value)
    assert list(told) == captions
    assert len(reasons) == flaws


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.list_(pa.string()), pa.large_list(pa.string())]
)
def test_captions_of_many_rows_are_judged_as_those_of_one(kind: pa.DataType) -> None:
    several = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    values = [v for v, _, _ in CAPTIONS if v is None or isinstance(v, list if several else str)]
    flags = plain_captions(pa.array(values, kind))
    assert flags.tolist() == [not clean_captions(value)[1] for value in values]
    sliced = plain_captions(pa.array(values * 2, kind).slice(1, len(values)))
    assert sliced.tolist() == [not clean_captions(v)[1] for v in (values * 2)[1 : len(values) + 1]]


def test_ids() -> None:
    names = {"image": "f", "id": "n"}
    assert row_id(3, {"f": "a.jpg", "n": 12}, names) == "12"
    assert row_id(3, {"f": "a.jpg", "n": None}, names) == "a.jpg"
    assert row_id(3, {"f": b"x"}, {"image": "f"}) == "3"
