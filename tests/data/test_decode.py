"""Every kind of file that people have, and what becomes of it."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.data.decode import decode_image
from clipkit.errors import ImageError
from tests.conftest import square


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The corner marked red must come out where a viewer shows it."""
    upright = Image.new("RGB", (40, 24), "white")
    upright.paste((255, 0, 0), (0, 0, 10, 6))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, "PNG", exif=exif))
    assert decoded.size == (40, 24)
    np.testing.assert_array_equal(pixels(decoded), np.asarray(upright))
    again = decode_image(decoded)
    assert again.size == (40, 24)


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    np.testing.assert_allclose(pixels(decode_image(encoded(half, "PNG"))), 127, atol=1)
    assert (pixels(decode_image(encoded(clear, "PNG"))) == 255).all()
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([200, 0, 0] * 256)
    assert (pixels(decode_image(encoded(palette, "PNG", transparency=3))) == 255).all()
    grey = Image.new("LA", (4, 4), (10, 0))
    assert (pixels(decode_image(encoded(grey, "PNG"))) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = pixels(decode_image(encoded(Image.fromarray(values), "PNG")))
    np.testing.assert_allclose(decoded[..., 0], values / 257, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB", "LAB", "HSV"])
def test_modes_give_a_sane_picture(mode: str) -> None:
    original = square("red")
    format_ = "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"
    source = original.convert("RGB")
    image = source.quantize(32) if mode == "P" else source.convert(mode if mode != "LAB" else "L")
    if mode == "LAB":
        image = Image.new("LAB", (48, 40))
    decoded = decode_image(encoded(image, format_)) if mode != "HSV" else decode_image(image)
    assert decoded.size == (48, 40)
    if mode in ("RGB", "CMYK", "YCbCr", "P", "HSV"):
        assert np.abs(pixels(decoded) - np.asarray(original).astype(int)).mean() < 12


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(decode_image(content))[0, 0].tolist() == [255, 0, 0] or (
        pixels(decode_image(content))[0, 0, 0] > 250
    )


def test_a_large_jpeg_may_be_decoded_smaller_but_never_below_twice_the_target() -> None:
    content = encoded(square("green", size=(1600, 1200)), "JPEG", quality=95)
    near = decode_image(content, near=224)
    assert min(near.size) >= 2 * 224
    assert near.width < 1600
    whole = decode_image(content)
    small = [np.asarray(im.resize((64, 48))).astype(int) for im in (near, whole)]
    assert np.abs(small[0] - small[1]).max() <= 3


def test_the_source_is_left_alone() -> None:
    image = square("red")
    decoded = decode_image(image)
    decoded.paste((0, 0, 0), (0, 0, 48, 40))
    assert np.asarray(image).mean() > 50


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file is empty"),
        (b"not an image at all", "cannot identify image file"),
        (encoded(square("red", size=(300, 300)), "JPEG")[:2000], "image file is truncated"),
        (encoded(square("red"), "PNG")[:200], "truncated|cannot decode"),
    ],
)
def test_what_is_no_image_is_a_short_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(content)
    assert len(str(caught.value)) < 120


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="file not found"):
        decode_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="folder"):
        decode_image(tmp_path)


def test_the_pixel_limit_is_judged_before_decoding() -> None:
    content = encoded(Image.new("L", (300, 300)), "PNG")
    with pytest.raises(ImageError, match="more than 10000 pixels"):
        decode_image(content, max_pixels=10_000)
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="more than"):
            decode_image(bomb)
