"""From images of any kind to features, block by block; or features that are there already."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.classify.images import Images, as_samples
from clipkit.encode import iter_image_features
from clipkit.errors import DataError
from clipkit.models import DualEncoder
from clipkit.types import ImageSource, Progress, Reject

ROWS = 4096
"""Features that are there already are taken so many at a time."""


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Some consecutive images.

    Attributes:
        size: how many there are.
        places: which of them could be read, counted from the first, ascending.
        features: of those, L2-normalised, float32, on the CPU.
        labels: of all of them, `None` where nothing says it.
        rejects: those that could not be read.
    """

    size: int
    places: list[int]
    features: Float[Tensor, "images dim"]
    labels: list[str | None]
    rejects: list[Reject]


def iter_features(
    model: DualEncoder,
    images: Images,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Iterator[FeatureBlock]:
    """Encode images in their order, a batch at a time, so that they may come from a generator.

    Args:
        model: what encodes.
        images: see `as_samples`; or features, a floating-point array or tensor [images, dim], which
            are normalised again.
        batch_size: images a forward pass.
        progress: told how many are done.

    Raises:
        DataError: something is no image, or the features are not the model's.
    """
    countable = isinstance(images, Sized) and getattr(images, "ndim", 1) > 0
    total = len(images) if countable and not isinstance(images, str | bytes) else None
    blocks = _given(model, images) if are_features(images) else _encoded(model, images, batch_size)
    done = 0
    for block in blocks:
        done += block.size
        if progress is not None:
            progress(done, total)
        yield block


def are_features(images: Images) -> bool:
    """Say whether images are features that are there already."""
    if isinstance(images, Tensor):
        return images.ndim == 2 and images.is_floating_point()
    return isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f"


def _given(model: DualEncoder, images: Images) -> Iterator[FeatureBlock]:
    if images.shape[1] != model.dim:
        raise DataError(
            f"images: numbers {list(images.shape)} with a floating point are taken for features,"
            f" and the model's have {model.dim} columns; pictures are uint8 [height, width, 3]"
        )
    for start in range(0, len(images), ROWS):
        rows = torch.as_tensor(images[start : start + ROWS]).detach().cpu().float()
        length = rows.norm(dim=1)
        good = (torch.isfinite(length) & (length > 0)).nonzero()[:, 0].tolist()
        bad = sorted(set(range(len(rows))) - set(good))
        yield FeatureBlock(
            len(rows),
            good,
            torch.nn.functional.normalize(rows[good], dim=1),
            [None] * len(rows),
            [Reject(f"row {start + at}", "features are zero or no finite numbers") for at in bad],
        )


def _encoded(model: DualEncoder, images: Images, batch_size: int | None) -> Iterator[FeatureBlock]:
    ids: list[str] = []
    labels: list[str | None] = []

    def sources() -> Iterator[ImageSource | None]:
        for sample in as_samples(images):
            ids.append(sample.id)
            labels.append(sample.label)
            yield sample.image

    for batch in iter_image_features(model, sources(), batch_size=batch_size):
        size = len(batch.indices) + len(batch.errors)
        yield FeatureBlock(
            size,
            [at - batch.start for at in batch.indices],
            batch.features,
            labels[:size],
            [Reject(ids[at - batch.start], reason) for at, reason in batch.errors],
        )
        del ids[:size], labels[:size]  # of those that follow some are read ahead
