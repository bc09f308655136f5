"""Odd pictures and files that are none: each is used, or is listed with a reason."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.data.bad_input import GOOD, Case, Write, beside_good, check, saved

Colour = tuple[int, int, int]
Look = dict[tuple[int, int], Colour]

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 200, 20), (20, 20, 220), (230, 220, 20)
WHITE = (255, 255, 255)
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def quarters() -> Image.Image:
    """Draw a picture of 40 x 24 pixels with a colour in each corner."""
    image = Image.new("RGB", (40, 24), RED)
    image.paste(GREEN, (20, 0, 40, 12))
    image.paste(BLUE, (0, 12, 20, 24))
    image.paste(YELLOW, (20, 12, 40, 24))
    return image


CORNERS: Look = {(2, 2): RED, (37, 2): GREEN, (2, 21): BLUE, (37, 21): YELLOW}


def plain(*colours: str, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour).convert(mode) for colour in colours]


def animated(format: str, **options: bool) -> Write:
    first, *others = plain("red", "blue")
    return saved(first, format=format, save_all=True, append_images=others, **options)


def turned(orientation: int) -> Write:
    """Save the four corners as a camera does that was held so: EXIF says how to turn them back."""
    to_stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = quarters()
    if orientation in to_stored:
        image = image.transpose(to_stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, exif=exif, quality=95, subsampling=0)


def palette() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *BLUE] + [0] * 762)
    image.putpixel((3, 3), 1)
    return image


def cut(image: Image.Image, share: float) -> Write:
    def write(path: Path) -> None:
        image.save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def damaged(image: Image.Image, place: Callable[[bytes], int]) -> Write:
    """Save a PNG and change one byte of it."""

    def write(path: Path) -> None:
        image.save(path, format="PNG")
        content = bytearray(path.read_bytes())
        content[place(bytes(content))] ^= 0xFF
        path.write_bytes(content)

    return write


def data_chunk(content: bytes) -> tuple[int, int]:
    """Return where the data of a PNG's first IDAT chunk begins and ends; a checksum follows."""
    at = content.index(b"IDAT")
    return at + 4, at + 4 + struct.unpack(">I", content[at - 4 : at])[0]


def long_text() -> PngInfo:
    info = PngInfo()
    info.add_text("comment", "0" * (4 << 20), zip=True)
    return info


NOISE = Image.effect_noise((120, 90), 80).convert("RGB")
WIDE = Image.new("RGB", (30_000, 20), RED)
NUMBERS = np.array([[0, 0.5], [np.nan, 1]], dtype=np.float32)
EXIF_BROKEN = b"Exif\0\0not what it should be"

# A file's name, what writes it, the size of the picture, and some of its pixels.
ODD: dict[str, tuple[str, Write, tuple[int, int], Look]] = {
    **{
        f"EXIF orientation {turn}": ("x.jpg", turned(turn), (40, 24), CORNERS)
        for turn in range(1, 9)
    },
    "EXIF orientation that there is not": ("x.jpg", turned(9), (40, 24), CORNERS),
    "broken EXIF": ("x.jpg", saved(quarters(), exif=EXIF_BROKEN), (40, 24), CORNERS),
    "16 bits": (
        "x.png",
        saved(Image.fromarray(np.full((5, 6), 40_000, np.uint16))),
        (6, 5),
        {(0, 0): (156, 156, 156)},
    ),
    "floats, one of them NaN": (
        "x.tif",
        saved(Image.fromarray(NUMBERS)),
        (2, 2),
        {(0, 0): (0, 0, 0), (1, 0): (128, 128, 128), (0, 1): (0, 0, 0), (1, 1): WHITE},
    ),
    "CMYK": (
        "x.jpg",
        saved(Image.new("CMYK", (8, 8), (0, 200, 200, 20))),
        (8, 8),
        {(4, 4): (235, 51, 51)},
    ),
    "palette with a transparent colour": (
        "x.png",
        saved(palette(), transparency=b"\x00\xff"),
        (4, 4),
        {(0, 0): WHITE, (3, 3): BLUE},
    ),
    "half transparent": (
        "x.png",
        saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128))),
        (4, 4),
        {(1, 1): (127, 127, 127)},
    ),
    "transparent grey": ("x.png", saved(Image.new("LA", (4, 4), (9, 0))), (4, 4), {(1, 1): WHITE}),
    "black and white": ("x.png", saved(Image.new("1", (4, 4), 1)), (4, 4), {(1, 1): WHITE}),
    "animated GIF": ("x.gif", animated("GIF"), (8, 8), {(4, 4): (255, 0, 0)}),
    "animated WebP": ("x.webp", animated("WEBP", lossless=True), (8, 8), {(4, 4): (255, 0, 0)}),
    "animated PNG": ("x.png", animated("PNG"), (8, 8), {(4, 4): (255, 0, 0)}),
    "pages": ("x.tiff", animated("TIFF"), (8, 8), {(4, 4): (255, 0, 0)}),
    "stereo": ("x.jpg", animated("MPO"), (8, 8), {(4, 4): (255, 0, 0)}),
    "one pixel": ("x.png", saved(Image.new("RGB", (1, 1), BLUE)), (1, 1), {(0, 0): BLUE}),
    "30,000 pixels wide": ("x.png", saved(WIDE), (30_000, 20), {(29_999, 19): RED}),
    "PNG by the name of JPEG": ("x.jpg", saved(quarters(), format="PNG"), (40, 24), CORNERS),
    "ending in capitals": ("X.JPG", saved(quarters(), quality=95), (40, 24), CORNERS),
    "checksum of the pixels is wrong, not they": (
        "x.png",
        damaged(quarters(), lambda content: data_chunk(content)[1]),
        (40, 24),
        CORNERS,
    ),
    "name that is not UTF-8": (NOT_UTF8, saved(quarters()), (40, 24), CORNERS),
    "link to a picture": (
        "x.png",
        lambda path: path.symlink_to("good.png"),
        (48, 40),
        {(4, 4): GREEN},
    ),
}

TRUNCATED, UNKNOWN = "image file is truncated", "cannot identify image file"
BROKEN_DATA = "cannot decode image: broken data stream when reading image file"
TOO_LARGE = "more than 178956970 pixels"

# A file's name, what writes it, and the reason why it is no picture.
NO_PICTURE: dict[str, tuple[str, Write, str]] = {
    "empty": ("x.jpg", lambda path: path.touch(), "file is empty"),
    "JPEG, cut": ("x.jpg", cut(NOISE, 0.5), TRUNCATED),
    "JPEG, a bit short": ("x.jpg", cut(NOISE, 0.999), TRUNCATED),
    "PNG, cut": ("x.png", cut(NOISE, 0.5), TRUNCATED),
    "GIF, cut": ("x.gif", cut(NOISE, 0.5), TRUNCATED),
    "TIFF, cut": ("x.tif", cut(NOISE, 0.5), TRUNCATED),
    "BMP, cut": ("x.bmp", cut(NOISE, 0.5), TRUNCATED),
    "WebP, cut": (
        "x.webp",
        cut(NOISE, 0.5),
        "cannot decode image: could not create decoder object",
    ),
    "PNG, checksum of its head wrong": ("x.png", damaged(NOISE, lambda content: 29), UNKNOWN),
    "PNG, a wrong byte": ("x.png", damaged(NOISE, lambda c: sum(data_chunk(c)) // 2), BROKEN_DATA),
    "PNG with a text that swells": (
        "x.png",
        saved(quarters(), pnginfo=long_text()),
        "cannot decode image: Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ),
    "bomb": ("x.png", lambda path: Image.new("1", (13_400, 13_400)).save(path), TOO_LARGE),
    "no finite number": (
        "x.tif",
        saved(Image.fromarray(np.full((2, 2), np.nan, np.float32))),
        "no finite pixel values",
    ),
    "text": ("x.jpg", lambda path: path.write_text("no picture\n"), UNKNOWN),
    "page of an error": ("x.jpg", lambda path: path.write_text("<html>404</html>"), UNKNOWN),
    "drawing": ("x.png", lambda path: path.write_text("<svg xmlns='x'/>"), UNKNOWN),
    "PostScript, which is a program": ("x.jpg", saved(quarters(), format="EPS"), UNKNOWN),
    "link to nothing": ("x.jpg", lambda path: path.symlink_to("gone.jpg"), "file not found"),
    "link to itself": (
        "x.jpg",
        lambda path: path.symlink_to(path.name),
        "file cannot be read: Too many levels of symbolic links",
    ),
    "pipe": ("x.jpg", os.mkfifo, "not a regular file"),
    "link to a device without end": (
        "x.jpg",
        lambda path: path.symlink_to("/dev/zero"),
        "not a regular file",
    ),
    "socket": ("x.jpg", lambda path: open_socket(path), "not a regular file"),
    "empty, with a name that is not UTF-8": (NOT_UTF8, lambda p: p.touch(), "file is empty"),
    "link to nothing, likewise": (NOT_UTF8, lambda p: p.symlink_to("gone"), "file not found"),
}


def open_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # a socket's name may not be long
        server.bind(path.name)


def readable(name: str) -> str:
    return "caf\\udce9.png" if name == NOT_UTF8 else name


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_are_as_a_person_sees_them(kind: str, tmp_path: Path) -> None:
    name, write, size, look = ODD[kind]
    usable: dict[str, tuple[str, ...]] = {**GOOD, readable(name): ()}
    pictures = check(Case(beside_good(name, write), rows=2, usable=usable), tmp_path)
    picture = pictures[readable(name)]
    assert (picture.mode, picture.size) == ("RGB", size)
    for place, colour in look.items():
        np.testing.assert_allclose(np.asarray(picture)[place[::-1]], colour, atol=12)


@pytest.mark.parametrize("kind", NO_PICTURE)
def test_what_is_no_picture_is_listed(kind: str, tmp_path: Path) -> None:
    name, write, reason = NO_PICTURE[kind]
    rejects = [(readable(name), reason)]
    check(Case(beside_good(name, write), rows=2, usable=GOOD, rejects=rejects), tmp_path)
