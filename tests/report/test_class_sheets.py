from pathlib import Path

from PIL import Image

from clipkit.report.class_sheets import COLUMNS, draw_class_sheets, surest_and_least
from clipkit.report.contact_sheet import Cell
from tests.conftest import square


def test_the_surest_and_the_least_sure_each_once() -> None:
    values = [0.1, 0.9, 0.5, 0.9, 0.3]
    assert surest_and_least(values, half=3) == [1, 3, 2, 4, 0]
    assert surest_and_least(values, half=2) == [1, 3, 4, 0]
    assert surest_and_least([]) == []


def test_a_sheet_of_each_label(tmp_path: Path) -> None:
    names = ["t-shirt", "a/b", "../up", "CON 1"]
    cells = {name: [Cell(square("red"), name)] * (1 + 6 * at) for at, name in enumerate(names)}
    drawn = draw_class_sheets(tmp_path / "sheets", cells)
    assert list(drawn) == names
    assert drawn["t-shirt"].name == "t-shirt.png"
    assert len(set(drawn.values())) == len(names)
    assert sorted(drawn.values()) == sorted((tmp_path / "sheets").iterdir())
    widths = []
    for path in drawn.values():
        with Image.open(path) as sheet:
            widths.append(sheet.width)
    assert widths[0] < widths[1] == widths[2] == widths[3]
    assert widths[1] > COLUMNS * 180
