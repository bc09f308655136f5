from pathlib import Path

from clipkit.data.audit import audit
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.report import audit as tables
from clipkit.types import Sample
from tests.conftest import square


def test_each_part_has_a_column(corrupt: Path, classes: Path) -> None:
    found = audit(
        [load_data(corrupt), load_data(classes)],
        count_tokens=lambda texts: [30 for _ in texts],
        context_length=16,
        resolution=32,
    )
    columns, lines = tables.overview(found)
    told = {line[0]: line[1:] for line in lines}
    assert columns == ["", "photos", "classes"]
    assert told["rows that can be used"] == ["17", "12"]
    assert told["rejected"] == ["1 (5.6 %)", "0 (0.0 %)"]
    assert told["captions cut at 16 tokens"] == ["17 (100.0 %); tokens lost: 14", "-"]
    assert told["classes"] == ["-", "6 of 2 to 2 rows"]
    assert told["smaller than the model's square"] == ["none", "none"]
    assert tables.rejected(found) == [
        ["photos", "cannot identify image file", "1", str(corrupt / "red1.png")]
    ]
    assert tables.shared(found) == []
    assert tables.classes(found)[0] == ["black", "", "2"]


def test_what_recurs_and_is_shared_is_named() -> None:
    rows = [Sample(f"r{n}", square("red"), (f"caption {n}",)) for n in range(5)]
    found = audit([Dataset("a", rows), Dataset("b", rows[:1])])
    assert tables.repeated(found) == [["a", "image", "5", "r0, r1, r2, …"]]
    assert tables.shared(found) == [["a and b", "1", "1", "1", "r0 = r0"]]


def test_of_many_classes_the_ends_are_shown() -> None:
    rows = [Sample(f"{n}-{k}", square("red"), (), f"c{n:02}") for n in range(20) for k in range(n)]
    lines = tables.classes(audit([Dataset("many", rows)]))
    assert len(lines) == 17
    assert lines[0] == ["c19", "19"]
    assert lines[8] == ["(3 more)", ""]
    assert lines[-1] == ["c01", "1"]
