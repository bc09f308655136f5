import json
from pathlib import Path

import pytest

from clipkit.data import Rejects
from clipkit.errors import ConfigError, RejectedError
from clipkit.types import Reject


def filled(count: int, max_rejected: float = 0.01) -> Rejects:
    rejects = Rejects(max_rejected)
    for at in range(count):
        rejects.add(Reject(f"row {at}", "file not found" if at % 3 else "empty caption"))
    return rejects


def test_the_limit_is_a_share_and_one_row_is_always_allowed() -> None:
    filled(1).check(5, final=True)
    filled(10).check(1000, final=True)
    with pytest.raises(RejectedError, match="11 rows rejected: 7 file not found, 4 empty caption"):
        filled(11).check(1000, final=True)
    with pytest.raises(RejectedError, match="'row 0'"):
        filled(2).check(5, final=True)
    filled(2, 0.5).check(5, final=True)
    with pytest.raises(RejectedError):
        filled(1, 0.0).check(5, final=True)


def test_nothing_left_stops_whatever_the_limit() -> None:
    with pytest.raises(RejectedError):
        filled(1).check(1, final=True)
    with pytest.raises(RejectedError):
        filled(4, 1.0).check(4, final=True)


def test_while_rows_come_in_the_first_hundred_are_not_judged() -> None:
    filled(50).check(99)
    with pytest.raises(RejectedError):
        filled(50).check(100)


def test_the_file_has_a_line_for_each(tmp_path: Path) -> None:
    rejects = filled(3)
    rejects.add(Reject("ü", "why", "there"))
    rejects.write(tmp_path / "rejects.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert rows[-1] == {"id": "ü", "reason": "why", "where": "there"}
    assert len(rows) == len(rejects) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["rejects.jsonl"]


def test_summary_and_bad_limit() -> None:
    assert Rejects().summary() == "no rows rejected"
    assert filled(1).summary() == "1 row rejected: 1 empty caption"
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Rejects(1.5)
