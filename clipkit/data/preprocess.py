"""From an RGB picture to the tensor that a model sees, for training and for evaluation."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from clipkit.data.decode import decode_image
from clipkit.errors import ConfigError
from clipkit.types import ImageSource, Preprocessing

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

CROPS: dict[str, Callable[[float], int]] = {"even": round, "floor": math.floor}
"""How half a pixel is rounded where the crop cannot be in the middle."""

_STRIP = 16


def to_pixels(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "height width channels"]:
    """Scale and crop one picture for evaluation.

    Equals torchvision's `Resize(resize_to)` and `CenterCrop(size)` on PIL images, or with
    `resize="squash"` its `Resize((size, size))`. The other ways in which the same model's images
    are prepared give, for an upright RGB picture:

    - open_clip's `image_transform`: the same pixels.
    - transformers' processors on PIL images (`CLIPImageProcessorPil`, `SiglipImageProcessorPil`):
      the same pixels with `crop="floor"`. The default rounds half a pixel to the even number, as
      torchvision does; where the longer side exceeds the crop by 3, 7, 11 and so on, that is one
      pixel further to the right or the bottom.
    - transformers' processors on tensors (`CLIPImageProcessor`, `SiglipImageProcessor`), likewise
      with `crop="floor"`: torchvision's resize of tensors has weights of 16 bits where PIL's have
      32. It is off by one level, seldom by two, in less than 1 % of the values. It scales rows
      before columns, as Pillow did up to version 12; Pillow 13 scales columns first where that is
      less work, as in most tall pictures that are squashed. What is rounded in between is then not
      the same: one value in six is off by one level, and a few at sharp edges by up to nine.

    Of a picture more than 16 times as long as it is wide only the part that is seen is scaled,
    within a level of the same: the whole could fill the memory.

    Args:
        image: an RGB picture, as `decode_image` returns it.
        preprocessing: what the model was trained with.

    Returns:
        A new array of `size` x `size` pixels, 0 to 255.

    Raises:
        ConfigError: `preprocessing` names no known interpolation or way to resize.
    """
    size = preprocessing.size
    filter_ = _interpolation(preprocessing)
    target = _shorter_side(preprocessing)
    if preprocessing.resize == "squash":
        whole = _resized(image, (target, target), filter_)
        at = _middle(target - size, preprocessing)
        return _array(whole.crop((at, at, at + size, at + size)) if target > size else whole)
    shorter, longer = sorted(image.size)
    long_target = int(target * longer / shorter)
    wide = image.width > image.height
    width, height = (long_target, target) if wide else (target, long_target)
    left, top = (_middle(side - size, preprocessing) for side in (width, height))
    if long_target > _STRIP * target:  # of a long strip, scale the part that is seen alone
        x, y = image.width / width, image.height / height
        box = (left * x, top * y, (left + size) * x, (top + size) * y)
        return _array(image.resize((size, size), filter_, box=box))
    whole = _resized(image, (width, height), filter_)
    return _array(whole.crop((left, top, left + size, top + size)))


def load_pixels(
    source: ImageSource, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode, scale and crop one image for evaluation.

    A JPEG is decoded at its full size, however large: at a part of it, the pixels would differ from
    those that the model's authors computed. Pictures that are not upright, opaque RGB with 8 bits
    come out as `decode_image` has them, which peers may show lying on their side or on black.

    Raises:
        ImageError: the image cannot be used.
        ConfigError: `preprocessing` names no known interpolation or way to resize.
    """
    return to_pixels(decode_image(source), preprocessing)


def normalize(
    pixels: UInt8[Tensor, "batch height width channels"], preprocessing: Preprocessing
) -> Float[Tensor, "batch channels height width"]:
    """Return `(pixels / 255 - mean) / std` in float32, channels first, on the device of `pixels`.

    The memory stays channels last, the order that convolutions like best; `pixels` is not changed.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device) * 255
        for values in (preprocessing.mean, preprocessing.std)
    )
    width = pixels.shape[2]  # whole rows of pixels at a time: loops over three channels are slow
    rows = pixels.flatten(2).to(torch.float32).sub_(mean.repeat(width)).div_(std.repeat(width))
    return rows.reshape(pixels.shape).permute(0, 3, 1, 2)


def augment_pixels(
    image: Image.Image,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    *,
    min_scale: float = 0.5,
    flip: bool = False,
) -> UInt8[np.ndarray, "height width channels"]:
    """Scale a random crop to the model's size: the augmentation that CLIP was trained with.

    Args:
        image: an RGB picture, as `decode_image` returns it.
        preprocessing: gives the size and the interpolation.
        rng: where the randomness comes from; the same state gives the same crop.
        min_scale: least share of the picture's area that the crop covers, above 0 and up to 1.
        flip: mirror half of the crops; wrong where captions say left or right.

    Returns:
        A new array of `size` x `size` pixels, 0 to 255.

    Raises:
        ConfigError: `min_scale` is not above 0 and up to 1.
    """
    crop = random_crop(image, preprocessing, rng, min_scale=min_scale)
    return crop[:, ::-1].copy() if flip and rng.random() < 0.5 else crop


def random_crop(
    image: Image.Image, preprocessing: Preprocessing, rng: np.random.Generator, *, min_scale: float
) -> UInt8[np.ndarray, "height width channels"]:
    """Scale a random crop to the model's size, see `augment_pixels`."""
    if not 0 < min_scale <= 1:
        raise ConfigError(f"min_scale must be above 0 and up to 1, not {min_scale}")
    box = _random_box(image.width, image.height, rng, min_scale)
    size = (preprocessing.size, preprocessing.size)
    return _array(image.resize(size, _interpolation(preprocessing), box=box))


def _random_box(
    width: int, height: int, rng: np.random.Generator, min_scale: float
) -> tuple[int, int, int, int]:
    """Draw a box with min_scale to 1 of the area and an aspect of 3:4 to 4:3 (Szegedy 2014)."""
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(rng.integers(0, width - box_width + 1))
            top = int(rng.integers(0, height - box_height + 1))
            return left, top, left + box_width, top + box_height
    box_width, box_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _middle(rest: int, preprocessing: Preprocessing) -> int:
    """Return how many pixels lie before the crop, of those that it leaves out."""
    if preprocessing.crop not in CROPS:
        raise ConfigError(
            f"preprocessing has crop {preprocessing.crop!r}; known: {', '.join(CROPS)}"
        )
    return CROPS[preprocessing.crop](rest / 2)


def _resized(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, filter_)


def _array(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    return np.array(image, dtype=np.uint8)


def _interpolation(preprocessing: Preprocessing) -> Image.Resampling:
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise ConfigError(
            f"preprocessing has interpolation {preprocessing.interpolation!r}; "
            f"known: {', '.join(INTERPOLATIONS)}"
        )
    return INTERPOLATIONS[preprocessing.interpolation]


def _shorter_side(preprocessing: Preprocessing) -> int:
    """Return the length that the shorter side is scaled to, once it is known to be a sane one."""
    if preprocessing.resize not in ("shortest", "squash"):
        raise ConfigError(
            f"preprocessing has resize {preprocessing.resize!r}; known: shortest, squash"
        )
    target = preprocessing.resize_to or preprocessing.size
    if target < preprocessing.size:
        raise ConfigError(
            f"preprocessing has resize_to {target}, less than its size {preprocessing.size}"
        )
    return target
