import numpy as np
import pytest
from PIL import Image

from clipkit.report.contact_sheet import Cell, contact_sheet
from tests.conftest import COLOURS, square


def near(sheet: Image.Image, place: tuple[int, int], colour: str) -> bool:
    found = np.array(sheet.getpixel(place), dtype=int)
    return bool(np.abs(found - np.array(COLOURS[colour])).max() < 30)


def test_pictures_stand_in_the_order_of_reading() -> None:
    cells = [Cell(square(colour, size=(100, 100)), colour) for colour in ("red", "green", "blue")]
    sheet = contact_sheet(cells, columns=2, side=100, text_lines=1)
    middle, across, down = 10 + 50, 110, 100 + 2 * 17 + 20
    assert near(sheet, (middle, middle), "red")
    assert near(sheet, (middle + across, middle), "green")
    assert near(sheet, (middle, middle + down), "blue")
    assert sheet.getpixel((middle + across, middle + down)) == (255, 255, 255)


def test_a_picture_is_whole_and_undistorted() -> None:
    sheet = contact_sheet([Cell(square("red", size=(200, 100)))], side=100)
    assert near(sheet, (12, 60), "red")
    assert near(sheet, (107, 60), "red")
    assert not near(sheet, (60, 20), "red")  # above it


@pytest.mark.parametrize(
    "cell", [Cell(b"no picture"), Cell(None), Cell(square("red"), fault="empty caption")]
)
def test_what_cannot_be_shown_says_why(cell: Cell) -> None:
    sheet = np.asarray(contact_sheet([cell], side=160, text_lines=0)).astype(int)
    field = sheet[10:170, 10:170]
    faulty = np.abs(field - np.array([0xA4, 0x16, 0x1A])).max(axis=2) < 40
    assert faulty[20:140, 20:140].sum() > 100  # words in red
    assert faulty[0].all()  # and a red frame


def test_words_stay_below_their_picture() -> None:
    words = Cell(square("white", size=(100, 100)), "x" * 300, ("word " * 500, "y" * 300))
    sheet = contact_sheet([words, Cell(square("white"))], columns=2, side=100, text_lines=3)
    ink = np.asarray(sheet).min(axis=2) < 120
    assert ink[112:, 10:112].any()
    assert not ink[112:, 114:].any()
    assert not ink[112 + 4 * 17 + 4 :].any()


def test_an_empty_sheet_is_a_sheet() -> None:
    assert contact_sheet([]).width > 0
