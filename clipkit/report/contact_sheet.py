"""A contact sheet: many pictures with their words below, to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from clipkit.data.decode import NO_IMAGE, decode_image
from clipkit.errors import ImageError
from clipkit.types import ImageSource

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Looked for on the system in this order, for the many scripts they have; else Pillow's own."""

_LETTER = 13  # height of the letters, in pixels
_LINE = 17
_MARGIN = 10
_INK, _FAINT, _FAULT, _PAPER, _GROUND = "#1a1a1a", "#6b6b6b", "#a4161a", "white", "#ececec"


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        image: undecoded; one that cannot be decoded is shown as a grey field with the reason.
        title: a faint line below the picture, such as the row's id.
        lines: what is written below that; long ones are broken.
        fault: shown in place of the picture, for a row that is known to be unusable.
    """

    image: ImageSource | None
    title: str = ""
    lines: tuple[str, ...] = ()
    fault: str = ""


def contact_sheet(
    cells: Sequence[Cell], *, columns: int = 6, side: int = 180, text_lines: int = 4
) -> Image.Image:
    """Draw pictures in a grid, whole and undistorted, each with its words below.

    Args:
        cells: the pictures, in the order of reading.
        columns: pictures a line, at most.
        side: side of the square that a picture fits into, in pixels.
        text_lines: lines of text below a picture, the title apart; what does not fit ends in "…".
    """
    font = _font()
    columns = max(1, min(columns, len(cells)))
    width, height = side + _MARGIN, side + (text_lines + 1) * _LINE + 2 * _MARGIN
    rows = max(1, -(-len(cells) // columns))
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        left = _MARGIN + number % columns * width
        top = _MARGIN + number // columns * height
        _draw_picture(sheet, draw, cell, (left, top), side, font)
        below = top + side + 4
        title = _fit(cell.title, font, side)
        draw.text((left, below), title, fill=_FAINT, font=font)
        for line in _wrap(cell.lines, font, side, text_lines):
            below += _LINE
            draw.text((left, below), line, fill=_INK, font=font)
    return sheet


def _draw_picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    place: tuple[int, int],
    side: int,
    font: Any,
) -> None:
    left, top = place
    fault, picture = cell.fault, None
    if not fault:
        try:
            if cell.image is None:
                raise ImageError(NO_IMAGE)
            picture = decode_image(cell.image, near=side)
        except ImageError as error:
            fault = str(error)
    if picture is not None:
        picture.thumbnail((side, side))
        offset = left + (side - picture.width) // 2, top + (side - picture.height) // 2
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=_GROUND)
        sheet.paste(picture, offset)
        return
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=_GROUND, outline=_FAULT)
    at = top + side // 2 - _LINE
    for line in _wrap((fault,), font, side - 2 * _MARGIN, 5):
        draw.text((left + _MARGIN, at), line, fill=_FAULT, font=font)
        at += _LINE


def _font() -> Any:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, _LETTER)
        except OSError:
            continue
    return ImageFont.load_default(_LETTER)


def _wrap(texts: Sequence[str], font: Any, width: int, most: int) -> list[str]:
    """Break texts into lines of a width; the last line that fits ends in "…" if there is more."""
    lines: list[str] = []
    for text in texts:
        line = ""
        for word in text.split():
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
            if len(lines) > most:
                break
        lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]}…"]
    return [_fit(line, font, width) for line in lines]


def _fit(text: str, font: Any, width: int) -> str:
    """Cut a line that is wider than there is room."""
    text = " ".join(text.split())[:500]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip('…')}…"
