import json
from pathlib import Path
from typing import Any

import pytest

from clipkit.data import load_data
from clipkit.data.jsonl import JsonRows
from clipkit.errors import DataError

GOOD = '{"image": "red0.png", "caption": "a"}'


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.data.jsonl._BLOCK", 100)
    monkeypatch.setattr("clipkit.data.load.LARGE_TABLE", 0)


@pytest.mark.usefixtures("small_blocks")
def test_lines_that_hold_no_row_are_listed_by_their_number(photos: Path) -> None:
    lines: list[bytes] = [
        b"\xef\xbb\xbf" + GOOD.encode(),
        b"",
        b"[1, 2]",
        b'{"image": "red1.png", "caption": "caf\xe9"}',
        b'{"image": "red2.png", "caption": "b"',
        '{"image": "blue0.png", "caption": "zwölf", "n": {"deep": [1]}}'.encode(),
        b"  ",
        b'{"image": "blue1.png", "caption": ["c", "", "d"]}',
        b'{"image": "blue2.png", "caption": 7}',
        b'{"image": {"path": "green0.png"}, "caption": "e"}',
        b'{"caption": "f"}',
        b'{"image": "green1.png", "caption": "g"}',
    ]
    (photos / "t.jsonl").write_bytes(b"\r\n".join(lines))
    data = load_data(photos / "t.jsonl")
    assert [(Path(str(s.image)).name, s.captions) for s in data] == [
        ("red0.png", ("a",)),
        ("blue0.png", ("zwölf",)),
        ("blue1.png", ("c", "d")),
        ("blue2.png", ("7",)),
        ("green0.png", ("e",)),
        ("green1.png", ("g",)),
    ]
    assert data[1].metadata == {"n": {"deep": [1]}}
    assert [(r.where.rpartition(" ")[2], r.reason) for r in data.rejects] == [
        ("3", "not a JSON object"),
        ("4", "not UTF-8 text"),
        ("5", "not a JSON object"),
        ("8", "empty caption"),
        ("11", "no image named"),
    ]


@pytest.mark.usefixtures("small_blocks")
def test_rows_are_those_of_the_json_module(photos: Path) -> None:
    names = [f"{c}{n}.png" for c in ("red", "blue", "green") for n in range(3)]
    written: list[dict[str, Any]] = [
        {"image": names[n % 9], "caption": f"number {n} ✓\n" * (n % 5 + 1), "n": n}
        for n in range(300)
    ]
    path = photos / "t.jsonl"
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii=n % 2 > 0) for n, row in enumerate(written))
    )
    rows = JsonRows(path)
    told = [row for batch in rows.batches(["n", "caption"]) for row in batch.to_pylist()]
    assert told == [{"n": row["n"], "caption": row["caption"]} for row in written]
    assert [rows.row(n) for n in range(300)] == written
    assert [rows.place(n).rpartition(" ")[2] for n in (0, 299)] == ["1", "300"]
    assert not rows.rejects()


def test_what_is_no_json_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.jsonl cannot be read: No such file"):
        JsonRows(tmp_path / "gone.jsonl")
    for content in ("", "[\n1,\n2]", "image,caption\n"):
        (tmp_path / "t.jsonl").write_text(content)
        with pytest.raises(DataError, match=r"t.jsonl does not begin with a JSON object a line"):
            JsonRows(tmp_path / "t.jsonl")
