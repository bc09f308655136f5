"""From bytes to an upright RGB picture: the one place that opens images."""

import functools
import io
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipkit.errors import ImageError
from clipkit.types import FileSlice, ImageSource

MAX_PIXELS = 178_956_970
"""The pixel limit unless said otherwise; PIL's own default, above which it speaks of a bomb."""

NO_IMAGE = "row has no image"
"""Why a row without an image is rejected."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".ppm", ".pgm",
)  # fmt: skip
"""Endings, in lower case, of the files that are looked at as images."""

# EPS, for one, is left out on purpose: PIL hands it to Ghostscript, a program, to be run.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000")

_ORIENTATION = 0x0112
_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image that was decoded, its pixels aside.

    Attributes:
        format: of the file, as PIL names it: "JPEG", "PNG"; empty for a PIL image made in memory.
        mode: of its pixels as they are stored, as PIL names it: "RGB", "L", "CMYK", "I;16".
        width: in pixels, once the picture is upright.
        height: likewise.
        orientation: EXIF's number; 1 is upright, and 2 to 8 are turned or mirrored by decoding.
        frames: there is more than one frame or page, of which decoding takes the first.
        transparent: it has an alpha channel or a transparent colour.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    frames: bool
    transparent: bool


def decode_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, near: int | None = None
) -> Image.Image:
    """Return the picture as a person would see it: upright, opaque, in RGB.

    EXIF orientation is applied; transparency is laid on white; 16-bit and float pixels are scaled
    to 8 bits, not clipped; of an animation the first frame is taken.

    Args:
        source: a file, a part or the bytes of one, or a PIL image, which is left as it is.
        max_pixels: largest width * height, judged before decoding; PIL's own limit,
            `2 * PIL.Image.MAX_IMAGE_PIXELS`, stands as well.
        near: length in pixels of the shorter side that the picture will be scaled to. A JPEG may
            then be decoded at 1/2, 1/4 or 1/8 of its size, never below twice `near`.

    Returns:
        A PIL image of mode RGB that shares no pixels with `source`.

    Raises:
        ImageError: the image cannot be used; the message is a short reason without the file's name.
    """
    with _opened(source, max_pixels) as image:
        picture = _to_upright_rgb(image, max_pixels, None if image is source else near)
        return picture.copy() if picture is source else picture


def inspect_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Decode an image as `decode_image` does, and return what it is in place of its pixels.

    A JPEG is read to its end but decoded at 1/8 of its size, which finds the same faults sooner.

    Raises:
        ImageError: the image cannot be used; the same reason that `decode_image` gives.
    """
    with _opened(source, max_pixels) as image:
        mode, (width, height) = image.mode, image.size
        _to_upright_rgb(image, max_pixels, None if image is source else 1)
        orientation = _orientation(image)
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        return ImageFacts(
            format=image.format or "",
            mode=mode,
            width=width,
            height=height,
            orientation=orientation if orientation in _UPRIGHT_BY else 1,
            frames=_has_frames(image),
            transparent=mode in _WITH_ALPHA or "transparency" in image.info,
        )


@contextmanager
def _opened(source: ImageSource, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong in here or in the block becomes an ImageError."""
    _silence_pil()
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        file = _read_slice(source) if isinstance(source, FileSlice) else source
        if isinstance(file, Path) and (problem := file_problem(file)):
            raise ImageError(problem)
        opened = io.BytesIO(file) if isinstance(file, bytes) else Path(file)
        with Image.open(opened, formats=_formats()) as image:
            yield image
    except ImageError:
        raise
    except Exception as error:  # PIL raises nearly every kind of exception on broken files
        raise ImageError(_reason(error, source, max_pixels)) from error


def file_problem(path: Path) -> str | None:
    """Return in a few words why a path is no file that can be read, or `None` if it is one.

    Only regular files are: to open a pipe, for one, would wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return os_reason(error)
    if stat.S_ISREG(mode):
        return None
    return "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file"


def os_reason(error: OSError | ValueError) -> str:
    """Say in a few words, without the file's name, why the system refused a file."""
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, OSError):
        return f"file cannot be read: {error.strerror}"
    return "not the name of a file"  # it has a NUL, or what no file system can spell


def _read_slice(source: FileSlice) -> bytes:
    try:
        return source.read()
    except OSError as error:
        what = "the file around it ends within it" if error.errno is None else os_reason(error)
        raise ImageError(what) from error


def _to_upright_rgb(image: Image.Image, max_pixels: int, near: int | None) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise ImageError(f"more than {max_pixels} pixels")
    if image.width * image.height == 0:
        raise ImageError("image has no pixels")
    if near is not None and image.format in ("JPEG", "MPO"):
        image.draft(image.mode, (2 * near, 2 * near))
    image.load()
    orientation = _orientation(image)
    picture = _to_rgb(image)
    if orientation in _UPRIGHT_BY:
        picture = picture.transpose(_UPRIGHT_BY[orientation])
        picture.info = {}  # or the orientation in it would turn the picture once more, later on
    return picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_wide_pixels(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        with_alpha = image if image.mode == "RGBA" else _to_rgba(image)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _from_wide_pixels(image: Image.Image) -> Image.Image:
    """Scale grey pixels of 16 or 32 bits, or floats, to 8 bits.

    16-bit pixels span 0 to 65535. The span of the others is not written in the file: 0 to 1 (for
    floats), 0 to 255 or 0 to 65535 where the values fit it, else their own least to greatest.
    """
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("no finite pixel values")
    low, high = float(values[finite].min()), float(values[finite].max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next(top for top in tops if high <= top)
    scaled = (np.where(finite, values, low) - low) * (255.0 / max(high - low, 1e-300))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the picture unusable
        return 1


def _has_frames(image: Image.Image) -> bool:
    """Return whether there is a second frame or page; where that cannot be told, there is none."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return the formats to try; an older Pillow does not know all of them."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _silence_pil() -> None:
    """Have Python ignore what PIL warns of as it reads: it ends in a reject or does no harm.

    `warnings.catch_warnings` would be narrower, but it is not for threads, and images are decoded
    in threads; so this filter stays once the first image was decoded.
    """
    ours = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _reason(error: Exception, source: ImageSource, max_pixels: int) -> str:
    """Say in a few words what is wrong; the same words for the same thing, to be counted."""
    if isinstance(error, OSError) and error.errno is not None:
        return os_reason(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {max_pixels} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "file is empty" if _is_empty(source) else "cannot identify image file"
    text = str(error).strip().partition("\n")[0]
    if "truncated" in text.lower():
        return "image file is truncated"
    return f"cannot decode image: {text[:80] or type(error).__name__}"


def _is_empty(source: ImageSource) -> bool:
    if isinstance(source, bytes):
        return not source
    if isinstance(source, FileSlice):
        return source.size == 0
    return isinstance(source, Path) and source.stat().st_size == 0
