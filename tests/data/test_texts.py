import json
from pathlib import Path
from typing import Any

import pytest

from clipkit.data.texts import caption_lines, parse_object, readable, split_lines, take_captions

HALF_PAIRS = [r"\ud83d", r"\ude00", r"\ud83d\ud83d", r"\ude00\ud83d", r"\ud83dx\ude00", r"\uD83D"]


def test_an_object_is_parsed_from_text_and_from_bytes() -> None:
    told = {"caption": "röt 😀", "n": [1, None, {"deep": True}]}
    for ascii_only in (False, True):
        text = json.dumps(told, ensure_ascii=ascii_only)
        assert parse_object(text) == parse_object(text.encode()) == told
    assert parse_object(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '"text"', "null", "{} {}", "{'a': 1}", "[" * 100_000, b'{"a": "\xff"}'],
)
def test_what_is_no_object(content: str | bytes) -> None:
    assert parse_object(content) is None


@pytest.mark.parametrize("half", HALF_PAIRS)
@pytest.mark.parametrize("shape", ['{"a": "x%sy"}', '{"x%sy": 1}', '{"a": [{"b": "%s"}]}'])
def test_half_a_surrogate_pair_counts_as_broken(half: str, shape: str) -> None:
    assert parse_object(shape % half) is None
    assert parse_object(shape % r"\ud83d\ude00") is not None
    assert parse_object(shape % half.replace("\\", r"\\")) is not None  # the letters are text


def test_lines_end_as_any_system_ends_them_and_nowhere_else(tmp_path: Path) -> None:
    parts = ["one", "", "t\u2028w\x0bo", "\x1cthree\x85", ""]
    for end in ("\n", "\r\n", "\r"):
        assert split_lines(end.join(parts)) == parts
        (tmp_path / "t.txt").write_text(end.join(parts), encoding="utf-8", newline="")
        with (tmp_path / "t.txt").open(encoding="utf-8") as file:  # universal newlines
            assert [line.rstrip("\n") for line in file] == parts[:-1]
    assert split_lines("a\n\rb\r\r\nc") == ["a", "", "b", "", "c"]


def test_captions_one_a_line() -> None:
    assert caption_lines("one\n\n  \n two\r\n") == ["one", " two"]
    for blank in ("", "\n", " \r\n\t"):
        assert caption_lines(blank) == [""]


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        ({}, []),
        ({"caption": "a"}, ["a"]),
        ({"captions": ["a", "b"]}, ["a", "b"]),
        ({"caption": "a", "captions": ["b", "", None]}, ["a", "b", "", None]),
        ({"caption": None}, [None]),
        ({"caption": None, "captions": None}, [None]),
        ({"caption": None, "captions": ["a"]}, ["a"]),
        ({"captions": []}, [None]),
        ({"captions": {"en": "a"}}, [{"en": "a"}]),
    ],
)
def test_captions_are_taken_out_of_an_object(fields: dict[str, Any], captions: list[Any]) -> None:
    given = {"label": "x", **fields}
    assert take_captions(given) == captions
    assert given == {"label": "x"}


def test_names_can_be_written_again_and_stay_apart() -> None:
    for name in ("plain.jpg", "zwölf.jpg", "猫.jpg", "😀.jpg"):
        assert readable(name) == name
    raw = [b"caf\xe9.jpg", b"caf\xea.jpg", b"\xff"]
    names = [name.decode("utf-8", "surrogateescape") for name in raw]
    assert [readable(name) for name in names] == [r"caf\udce9.jpg", r"caf\udcea.jpg", r"\udcff"]
    assert readable(readable(names[0])).encode()
