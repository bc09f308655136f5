"""Two views of a picture: what contrast without captions learns from."""

import math
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from clipkit.data.preprocess import random_crop
from clipkit.errors import ConfigError
from clipkit.types import Preprocessing

_SHARES = ("flip", "color", "gray", "blur", "erase")
_ERASED_AREA, _ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)
_STRENGTHS = ("brightness", "contrast", "saturation")


class SimClrViews:
    """The augmentation of SimCLR (https://arxiv.org/abs/2002.05709, appendix A).

    A random crop scaled to the model's size, mirrored or not; then brightness, contrast, saturation
    and hue shifted in random order, colours taken away, and a Gaussian blur, each in a share of the
    views. Two views of a picture get two crops and two draws. The defaults are the paper's, but for
    the strength of the colours, which is half of it, as for small pictures there and in MoCo v2.
    A rectangle may be painted over besides, in one random colour, of 2 to 33 % of the area and an
    aspect of 0.3 to 3.3 (random erasing, https://arxiv.org/abs/1708.04896): where crops would teach
    to overlook the place of things, it takes parts away and leaves the rest in its place.

    Args:
        min_scale: least share of the picture's area that a crop covers, above 0 and up to 1.
        flip: share of views that are mirrored; 0 where left and right mean something.
        color: share of views whose colours are shifted.
        brightness: the largest change, as a share, from 0 on.
        contrast: likewise.
        saturation: likewise.
        hue: the largest turn of the colour circle, as a share of it, from 0 to 0.5.
        gray: share of views without colours.
        blur: share of blurred views; the blur's sigma is 0.1 to 2 pixels of 224, and less of less.
        erase: share of views of which a rectangle is painted over.

    Raises:
        ConfigError: when a number is out of its range.
    """

    def __init__(
        self,
        *,
        min_scale: float = 0.08,
        flip: float = 0.5,
        color: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        gray: float = 0.2,
        blur: float = 0.5,
        erase: float = 0.0,
    ) -> None:
        """Keep the settings."""
        self.min_scale = min_scale
        self.flip, self.color, self.gray, self.blur = flip, color, gray, blur
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue, self.erase = hue, erase
        if problems := _problems(self):
            raise ConfigError("augment cannot be used:", problems)

    def __call__(
        self, image: Image.Image, preprocessing: Preprocessing, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "height width channels"]:
        """Return one view of a picture.

        Args:
            image: an RGB picture, as `decode_image` returns it.
            preprocessing: gives size and interpolation.
            rng: where the randomness comes from; the same state gives the same view.

        Returns:
            A new array of `size` x `size` pixels, 0 to 255.
        """
        crop = random_crop(image, preprocessing, rng, min_scale=self.min_scale)
        view = torch.from_numpy(crop).permute(2, 0, 1)
        flips, colors, grays, blurs = rng.random(4)
        if flips < self.flip:
            view = view.flip(2)
        if colors < self.color:
            view = self._shift_colors(view, rng)
        if grays < self.gray:
            view = _functional().rgb_to_grayscale(view, num_output_channels=3)
        sigma = rng.uniform(0.1, 2.0) * preprocessing.size / 224
        if blurs < self.blur and sigma > 0.1:
            view = _blurred(view, sigma)
        if self.erase and rng.random() < self.erase:
            view = _erased(view, rng)
        return view.permute(1, 2, 0).contiguous().numpy()

    def _shift_colors(
        self, view: UInt8[Tensor, "channels height width"], rng: np.random.Generator
    ) -> UInt8[Tensor, "channels height width"]:
        """Shift brightness, contrast, saturation and hue, in random order."""
        functional = _functional()
        factors = {
            name: rng.uniform(max(0.0, 1 - strength), 1 + strength)
            for name, strength in self._strengths().items()
        }
        turn = rng.uniform(-self.hue, self.hue)
        for at in rng.permutation(4):
            if at == 3:
                view = functional.adjust_hue(view, turn) if turn else view
                continue
            name = _STRENGTHS[at]
            view = getattr(functional, f"adjust_{name}")(view, factors[name])
        return view

    def _strengths(self) -> Mapping[str, float]:
        return {name: getattr(self, name) for name in _STRENGTHS}


def _functional() -> ModuleType:
    """Import torchvision's transforms when a view is made: they are slow to load."""
    from torchvision.transforms.v2 import functional

    loaded: ModuleType = functional
    return loaded


VIEWS = {"simclr": SimClrViews}
"""The augmentations that a recipe's `views.augment` can name."""


def _problems(views: SimClrViews) -> list[str]:
    """Say what is wrong with the settings."""
    found = []
    if not 0 < views.min_scale <= 1:
        found.append(f"augment.min_scale: {views.min_scale} is not above 0 and up to 1")
    for name in _SHARES:
        if not 0 <= getattr(views, name) <= 1:
            found.append(f"augment.{name}: {getattr(views, name)} is not a share from 0 to 1")
    for name in _STRENGTHS:
        if not 0 <= getattr(views, name) < math.inf:
            found.append(f"augment.{name}: {getattr(views, name)} is no number from 0 on")
    if not 0 <= views.hue <= 0.5:
        found.append(f"augment.hue: {views.hue} is not from 0 to 0.5")
    return found


def _blurred(
    view: UInt8[Tensor, "channels height width"], sigma: float
) -> UInt8[Tensor, "channels height width"]:
    """Blur, with a kernel that reaches three sigmas to either side as far as there are pixels."""
    reach = min(math.ceil(3 * sigma), view.shape[1] - 1)
    blurred: Tensor = _functional().gaussian_blur(view, [2 * reach + 1] * 2, [sigma, sigma])
    return blurred


def _erased(
    view: UInt8[Tensor, "channels height width"], rng: np.random.Generator
) -> UInt8[Tensor, "channels height width"]:
    """Paint a rectangle over that lies within the picture."""
    channels, height, width = view.shape
    (least, most), (flat, tall) = _ERASED_AREA, _ERASED_ASPECT
    area = rng.uniform(least, most) * height * width
    aspect = math.exp(rng.uniform(math.log(flat), math.log(tall)))
    rows = min(height, max(1, round(math.sqrt(area * aspect))))
    columns = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    color = torch.from_numpy(rng.integers(0, 256, (channels, 1, 1), dtype=np.uint8))
    erased: Tensor = _functional().erase(view, int(top), int(left), rows, columns, color)
    return erased
