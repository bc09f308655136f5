"""The evaluation tensor of a JPEG against what open_clip and transformers make of it.

Peers are built from code with the settings of the published models: OpenAI's CLIP (shorter side to
224, the centre of it, CLIP's mean and standard deviation) and SigLIP (squashed to 224 x 224, 0.5).
The pictures are photographs from scikit-image, saved as JPEGs of many sizes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from jaxtyping import Float, Int
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import PreprocessCfg, image_transform, image_transform_v2
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from clipkit.data.preprocess import load_pixels, normalize
from clipkit.types import Preprocessing

Peer = Callable[[Image.Image], Float[Tensor, "channels height width"]]

CLIP = Preprocessing(size=224, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
CLIP_LARGE = Preprocessing(size=336, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
SIGLIP = Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash")
SIGLIP_LARGE = Preprocessing(size=384, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash")

PHOTOS = ("chelsea.png", "coffee.png", "astronaut.png")
# Landscape, portrait, square, odd, smaller than the model's, of its very size, long, and large
# enough that libjpeg could decode it at a part of its size. None has the centre of the crop to 224
# pixels where transformers would round it otherwise, see BETWEEN.
SIZES = [
    (640, 480),
    (480, 640),
    (512, 512),
    (451, 300),
    (301, 452),
    (100, 80),
    (37, 151),
    (224, 224),
    (225, 224),
    (224, 226),
    (1001, 333),
    (2000, 1501),
    (1501, 2260),
]
# Scaled to 224, their longer side exceeds the crop by 3 modulo 4: the crop would have to start at
# half a pixel, and torchvision rounds that up.
BETWEEN = [(227, 224), (224, 231), (640, 427), (427, 640)]


def name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@pytest.fixture(params=SIZES, ids=name)
def jpeg(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(request.param, tmp_path, PHOTOS[SIZES.index(request.param) % len(PHOTOS)])


def save(size: tuple[int, int], folder: Path, photo: str = PHOTOS[0]) -> Path:
    """Save a photograph as a JPEG of some size."""
    path = folder / "photo.jpg"
    with Image.open(Path(skimage.__file__).parent / "data" / photo) as image:
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
    return path


def open_clip_peer(settings: Preprocessing) -> Peer:
    config = PreprocessCfg(
        size=settings.size,
        mean=settings.mean,
        std=settings.std,
        resize_mode=settings.resize,
        interpolation=settings.interpolation,
    )
    peer: Peer = image_transform_v2(config, is_train=False)
    return peer


def transformers_peer(processor: Callable[..., dict[str, Tensor]]) -> Peer:
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def mine(path: Path, settings: Preprocessing) -> Float[Tensor, "channels height width"]:
    pixels = torch.from_numpy(load_pixels(path, settings))
    return normalize(pixels[None], settings)[0]


def theirs(path: Path, peer: Peer) -> Float[Tensor, "channels height width"]:
    with Image.open(path) as image:
        return peer(image)


def levels(
    tensor: Float[Tensor, "channels height width"], settings: Preprocessing
) -> Int[Tensor, "channels height width"]:
    """Return the 0 to 255 that a normalised tensor was made from."""
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (settings.mean, settings.std))
    return ((tensor.double() * std + mean) * 255).round().int()


def assert_equal(path: Path, settings: Preprocessing, peer: Peer) -> None:
    a, b = mine(path, settings), theirs(path, peer)
    assert torch.equal(levels(a, settings), levels(b, settings))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [CLIP, CLIP_LARGE, SIGLIP, SIGLIP_LARGE])
def test_equals_open_clip(jpeg: Path, settings: Preprocessing) -> None:
    assert_equal(jpeg, settings, open_clip_peer(settings))


@pytest.mark.parametrize("size", BETWEEN, ids=name)
def test_equals_open_clip_where_the_centre_is_half_a_pixel(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = save(size, tmp_path)
    assert_equal(path, CLIP, open_clip_peer(CLIP))
    older = image_transform(224, is_train=False, mean=CLIP.mean, std=CLIP.std)
    assert_equal(path, CLIP, older)


def test_equals_open_clip_with_bilinear(jpeg: Path) -> None:
    settings = Preprocessing(224, CLIP.mean, CLIP.std, interpolation="bilinear")
    assert_equal(jpeg, settings, open_clip_peer(settings))


def test_equals_transformers_on_pil_images(jpeg: Path) -> None:
    large = {"height": SIGLIP_LARGE.size, "width": SIGLIP_LARGE.size}
    assert_equal(jpeg, CLIP, transformers_peer(CLIPImageProcessorPil()))
    assert_equal(jpeg, SIGLIP, transformers_peer(SiglipImageProcessorPil()))
    assert_equal(jpeg, SIGLIP_LARGE, transformers_peer(SiglipImageProcessorPil(size=large)))


@pytest.mark.parametrize("size", BETWEEN, ids=name)
@pytest.mark.parametrize(
    ("processor", "bound"), [(CLIPImageProcessorPil(), 0), (CLIPImageProcessor(), 1)]
)
def test_transformers_rounds_half_a_pixel_down(
    tmp_path: Path, size: tuple[int, int], processor: Callable[..., dict[str, Tensor]], bound: int
) -> None:
    path = save(size, tmp_path)
    peer = levels(theirs(path, transformers_peer(processor)), CLIP)
    floor = replace(CLIP, crop="floor")
    assert (levels(mine(path, floor), CLIP) - peer).abs().max() <= bound
    assert (levels(mine(path, CLIP), CLIP) - peer).abs().max() > 20  # one pixel further on


@pytest.mark.parametrize(
    ("settings", "processor"), [(CLIP, CLIPImageProcessor()), (SIGLIP, SiglipImageProcessor())]
)
def test_transformers_on_tensors_is_off_by_its_resize(
    jpeg: Path, settings: Preprocessing, processor: Callable[..., dict[str, Tensor]]
) -> None:
    a = levels(mine(jpeg, settings), settings)
    b = levels(theirs(jpeg, transformers_peer(processor)), settings)
    # Rows before columns, as torchvision has it on tensors and Pillow had it up to version 12.
    off = (rows_first(jpeg, settings) - b).abs()
    assert off.max() <= 2
    assert (off > 0).double().mean() < 0.01
    assert (off > 1).double().mean() < 0.0001
    # Where Pillow scales columns first, what is rounded and clipped in between differs.
    off = (a - b).abs()
    assert off.max() <= 10
    assert (off > 1).double().mean() < 0.01
    assert (off > 0).double().mean() < (0.01 if torch.equal(a, rows_first(jpeg, settings)) else 0.3)


def rows_first(path: Path, settings: Preprocessing) -> Int[Tensor, "channels height width"]:
    """Scale the rows and then the columns, and take the centre."""
    size, filter_ = settings.size, Image.Resampling.BICUBIC
    with Image.open(path) as image:
        shorter = min(image.size)
        width, height = (size * side // shorter for side in image.size)
        if settings.resize == "squash":
            width, height = size, size
        whole = image.resize((width, image.height), filter_).resize((width, height), filter_)
    left, top = (width - size) // 2, (height - size) // 2
    crop = np.array(whole.crop((left, top, left + size, top + size)))
    return torch.from_numpy(crop).permute(2, 0, 1).int()
