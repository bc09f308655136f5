"""Lines that Python's own csv module wrote, and lines that nobody should have written."""

import csv
import io

import numpy as np
import pytest

from clipkit.data.delimited import read_delimited
from clipkit.data.texts import split_lines

Records = list[tuple[int, list[str] | str]]


def read(text: str) -> Records:
    """Return the records of lines below the columns `image` and `caption`, or of three columns."""
    return read_delimited(split_lines(text))[1]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_what_csv_writes_is_read_back(separator: str, quoting: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    parts = [*'ab ",;\t|\n', "é", "\u2028", "''", '""']
    rows = [
        [f"{n}.png", *("".join(rng.choice(parts, 6)) for _ in range(columns - 1))]
        for n in range(200)
    ]
    names = [f"column {n}" for n in range(columns)]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(names)
    starts = []
    for row in rows:
        starts.append(split_lines(file.getvalue()).index("", -1) + 1)
        writer.writerow(row)
    found, records = read_delimited(split_lines(file.getvalue()))
    assert found == names
    assert records == list(zip(starts, rows, strict=True))


def test_the_separator_is_the_one_that_parts_the_head_most() -> None:
    for head, expected in [
        ("image;caption, in English;id", ["image", "caption, in English", "id"]),
        ("image\tcaption;notes\tid", ["image", "caption;notes", "id"]),
        ('"a,b,c"|d', ["a,b,c", "d"]),
        (" image , caption ", ["image", "caption"]),
        ("image", ["image"]),
    ]:
        assert read_delimited(["", " ", head])[0] == expected


def test_numbers_are_those_of_the_lines() -> None:
    text = '\nimage,caption\n\na.png,one\nb.png,"two\nand more"\n\nc.png,three\n'
    assert read(text) == [
        (4, ["a.png", "one"]),
        (5, ["b.png", "two\nand more"]),
        (8, ["c.png", "three"]),
    ]


def test_of_two_columns_the_last_holds_what_separators_there_are() -> None:
    assert read('image,caption\na.png,red, green\nb.png,\nc.png,x "y", z\n"d, e.png",f, g') == [
        (2, ["a.png", "red, green"]),
        (3, ["b.png", ""]),
        (4, ["c.png", 'x "y", z']),
        (5, ["d, e.png", "f, g"]),
    ]


def test_a_line_with_the_wrong_number_of_fields_is_one_reason() -> None:
    assert read("a,b,c\n1,2,3\n1,2\n1,2,3,4\n\n1,2,3") == [
        (2, ["1", "2", "3"]),
        (3, "fewer fields than columns"),
        (4, "more fields than columns"),
        (6, ["1", "2", "3"]),
    ]
    assert read("image,caption\na.png\nb.png,x") == [
        (2, "fewer fields than columns"),
        (3, ["b.png", "x"]),
    ]


@pytest.mark.parametrize(
    "line", ['a.png,1,"never closed', 'a.png,"one" more,x', '"a.png,1,x', 'a.png,1,"x"y"']
)
def test_a_stray_quote_costs_its_own_line_alone(line: str) -> None:
    rest = [f'{n}.png,{n},"fine, {n}"' for n in range(5)]
    expected = [(n + 3, [f"{n}.png", f"{n}", f"fine, {n}"]) for n in range(5)]
    assert read("\n".join(["image,n,caption", line, *rest])) == [(2, 'stray quote (")'), *expected]
    last = read("\n".join(["image,n,caption", *rest, line]))
    assert last == [*((n - 1, fields) for n, fields in expected), (7, 'stray quote (")')]


def test_a_quote_that_closes_behind_other_rows_does_not_swallow_them() -> None:
    assert read('image,n,caption\na.png,1,"open\nb.png,2,x\nc.png,3,y"\nd.png,4,z') == [
        (2, 'stray quote (")'),
        (3, ["b.png", "2", "x"]),
        (4, ["c.png", "3", 'y"']),
        (5, ["d.png", "4", "z"]),
    ]


def test_a_caption_of_several_lines_is_no_stray_quote() -> None:
    caption = "first, then,\nsecond, as in\n\nother.png"
    assert read(f'image,n,caption\na.png,1,"{caption}"\nb.png,2,x') == [
        (2, ["a.png", "1", caption]),
        (6, ["b.png", "2", "x"]),
    ]


def test_nul_costs_its_line() -> None:
    assert read("image,caption\na.png,x\0y\nb.png,z") == [
        (2, "NUL character in the line"),
        (3, ["b.png", "z"]),
    ]


def test_a_head_of_two_lines() -> None:
    columns, records = read_delimited(['"image', 'name",caption', "a.png,x"])
    assert columns == ["image\nname", "caption"]
    assert records == [(3, ["a.png", "x"])]


def test_a_head_with_a_stray_quote_names_no_columns() -> None:
    assert read_delimited(['"image,caption', "a.png,x"])[0] == []


def test_fields_may_be_long_and_the_limit_of_csv_stays_as_it_was() -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert read(f'image,n,caption\na.png,1,"{long}"') == [(2, ["a.png", "1", long])]
    assert csv.field_size_limit() == before
