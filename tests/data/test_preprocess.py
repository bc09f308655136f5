"""The transforms against torchvision's."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from clipkit.data.decode import decode_image
from clipkit.data.preprocess import augment_pixels, load_pixels, normalize, to_pixels
from clipkit.errors import ConfigError
from clipkit.types import Preprocessing
from tests.conftest import square

PLAIN = Preprocessing(size=32, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


@pytest.mark.parametrize("size", [(48, 40), (40, 61), (32, 32), (33, 200), (20, 30)])
@pytest.mark.parametrize("resize_to", [None, 37])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_shortest_equals_torchvision(
    size: tuple[int, int], resize_to: int | None, interpolation: str
) -> None:
    image = square("blue", size=size)
    settings = Preprocessing(
        32, PLAIN.mean, PLAIN.std, interpolation=interpolation, resize_to=resize_to
    )
    reference = v2.Compose(
        [
            v2.Resize(resize_to or 32, interpolation=v2.InterpolationMode(interpolation)),
            v2.CenterCrop(32),
        ]
    )
    np.testing.assert_array_equal(to_pixels(image, settings), np.asarray(reference(image)))


@pytest.mark.parametrize("size", [(40 * 17, 40), (41, 41 * 20), (3000, 1)])
def test_of_a_strip_the_part_that_is_seen(size: tuple[int, int]) -> None:
    """The centre of the scaled whole, within the rounding of where it begins."""
    tile = square("blue", size=(48, 40))
    image = tile.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    whole = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])(image)
    off = np.abs(to_pixels(image, PLAIN).astype(int) - np.asarray(whole).astype(int))
    assert off.max() <= 1


def test_a_strip_does_not_fill_the_memory() -> None:
    image = Image.new("RGB", (65_000, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    to_pixels(image, Preprocessing(224, PLAIN.mean, PLAIN.std))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kB; scaled as a whole it would have 9.8 GB


def test_squash_equals_torchvision() -> None:
    image = square("blue", size=(70, 41))
    settings = Preprocessing(32, PLAIN.mean, PLAIN.std, resize="squash")
    reference = v2.Resize((32, 32), interpolation=v2.InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(to_pixels(image, settings), np.asarray(reference(image)))


def test_squash_and_crop_equals_torchvision() -> None:
    image = square("blue", size=(70, 41))
    settings = Preprocessing(32, PLAIN.mean, PLAIN.std, resize="squash", resize_to=40)
    both = v2.Compose([v2.Resize((40, 40), v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    np.testing.assert_array_equal(to_pixels(image, settings), np.asarray(both(image)))


def test_normalize_equals_torchvision_and_copies() -> None:
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    before = pixels.clone()
    reference = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(PLAIN.mean, PLAIN.std)]
    )
    torch.testing.assert_close(
        normalize(pixels, PLAIN), reference(pixels.permute(0, 3, 1, 2)), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(pixels, before)


def test_normalize_takes_any_shape_and_keeps_channels_last() -> None:
    pixels = torch.randint(0, 256, (2, 7, 5, 3), dtype=torch.uint8)
    done = normalize(pixels, PLAIN)
    assert done.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(pixels.flip(2), PLAIN), done.flip(3))
    assert torch.equal(normalize(pixels.transpose(1, 2), PLAIN), done.transpose(2, 3))
    assert normalize(pixels[:0], PLAIN).shape == (0, 3, 7, 5)


def test_load_pixels_decodes_a_large_jpeg_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    square("red", size=(801, 603)).save(path, quality=95)
    whole, near = decode_image(path), decode_image(path, near=PLAIN.size)
    assert whole.size == (801, 603)
    assert near.width < 801
    np.testing.assert_array_equal(load_pixels(path, PLAIN), to_pixels(whole, PLAIN))
    assert (load_pixels(path, PLAIN) != to_pixels(near, PLAIN)).any()


def test_augmentation_is_a_function_of_its_generator() -> None:
    image = square("red", size=(90, 60))
    first, second, other = (
        augment_pixels(image, PLAIN, np.random.default_rng(seed), flip=True) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert first.shape == (32, 32, 3)


def test_a_crop_of_the_whole_is_the_resized_whole() -> None:
    image = square("red", size=(50, 50))
    crop = augment_pixels(image, PLAIN, np.random.default_rng(0), min_scale=1.0)
    whole = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(crop.astype(int) - whole).mean() < 6


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"interpolation": "nearest"}, "interpolation 'nearest'"),
        ({"resize": "stretch"}, "resize 'stretch'"),
        ({"resize_to": 8}, "less than its size"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, object], word: str) -> None:
    settings = Preprocessing(32, PLAIN.mean, PLAIN.std, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=word):
        load_pixels(square("red"), settings)
    with pytest.raises(ConfigError, match="min_scale"):
        augment_pixels(square("red"), PLAIN, np.random.default_rng(0), min_scale=0.0)
