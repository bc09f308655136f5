"""From bytes to an upright RGB picture: the one place that opens images."""

import functools
import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipkit.errors import ImageError
from clipkit.types import FileSlice, ImageSource

MAX_PIXELS = 178_956_970
"""The pixel limit unless said otherwise; PIL's own default, above which it speaks of a bomb."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
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
    _silence_pil()
    try:
        if isinstance(source, Image.Image):
            picture = _to_upright_rgb(source, max_pixels, near=None)
            return picture.copy() if picture is source else picture
        if isinstance(source, FileSlice):
            source = source.read()
        file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
        with Image.open(file, formats=_formats()) as image:
            return _to_upright_rgb(image, max_pixels, near)
    except ImageError:
        raise
    except Exception as error:  # PIL raises nearly every kind of exception on broken files
        raise ImageError(_reason(error, source, max_pixels)) from error


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
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
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
    return isinstance(source, Path) and source.stat().st_size == 0
