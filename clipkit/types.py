"""The nouns that every part of clipkit shares, and the legend of axis names in shapes.

Axis names used in signatures such as `Float[Tensor, "batch dim"]`:

    batch      rows of a batch                 dim        the joint embedding space
    images     rows of images                  texts      rows of texts
    classes    labels of a classifier          tokens     positions in a tokenised text
    features   what a tower gives before its projection
    height, width, channels                    of an image
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A file that lies inside another one as it is, such as a member of a tar.

    Attributes:
        path: the outer file.
        offset: where the inner file begins, in bytes.
        size: its length in bytes.
    """

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: the outer file cannot be read, or it ends too early.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.path} ends within a member")
        return content


ImageSource = Path | bytes | Image | FileSlice
"""An image that is not decoded yet: a file, a part of one, the bytes, or a PIL image."""


Progress = Callable[[int, int | None], None]
"""Told how many rows are done, and of how many; `None` where nobody knows."""

PartProgress = Callable[[str, int, int | None], None]
"""Told besides which of several pieces of work it is about."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a data set.

    Attributes:
        id: stable string, unique in its data set; what lists of rejects and embedding stores name.
        image: the image, undecoded; `None` for a row of text alone.
        captions: one or many; training draws one a visit, evaluation uses them all.
        label: the class name, or `None`.
        metadata: further columns, carried along into embedding stores.
    """

    id: str
    image: ImageSource | None
    captions: tuple[str, ...] = ()
    label: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used, and why.

    Attributes:
        id: the row's id.
        reason: why, in a few words; equal reasons are counted together.
        where: the file or the place in a file that holds the row.
    """

    id: str
    reason: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an RGB image becomes the tensor that a model sees, in all three jobs alike.

    Attributes:
        size: side of the square that the model sees, in pixels.
        mean: subtracted from each channel after scaling to [0, 1].
        std: each channel is divided by it after that.
        interpolation: "bicubic" or "bilinear", always antialiased.
        resize: "shortest" scales the shorter side to `resize_to`, "squash" both sides; then the
            centre is cropped.
        resize_to: that length before the crop, in pixels; `size` when `None`.
        crop: where the middle of an odd number of pixels is: "even" rounds half a pixel to the even
            number, as torchvision and open_clip do, "floor" down, as transformers does.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"
    resize_to: int | None = None
    crop: str = "even"

    def settings(self) -> dict[str, Any]:
        """Return what counts for a fingerprint; what came later counts where it is not at rest."""
        return {
            key: value for key, value in asdict(self).items() if (key, value) != ("crop", "even")
        }


def per_channel(values: float | Sequence[float]) -> tuple[float, float, float]:
    """Return a number for each of three channels, of which one number may stand for all.

    >>> per_channel(0.5)
    (0.5, 0.5, 0.5)
    """
    red, green, blue = values if isinstance(values, Sequence) else (values,) * 3
    return float(red), float(green), float(blue)
