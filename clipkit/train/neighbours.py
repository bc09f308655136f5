"""Which rows of the training data are neighbours, so that a batch can hold hard negatives.

`clipkit.data.neighbour_order` turns them into the order of an epoch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.embed.contents import Contents, Keyed
from clipkit.embed.negatives import Limits, hard_negatives
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from clipkit.types import Progress


@dataclass(frozen=True, slots=True)
class NeighbourSettings:
    """How neighbours come into one batch.

    Attributes:
        k: how many neighbours of a row are known.
        group: rows that are put together; a batch of 128 in groups of 8 has some 16 of them.
        by: whether rows are neighbours by their images or by their captions.
        max_score: what has a cosine above this is taken for the same thing, and is no neighbour.

    Raises:
        ConfigError: a number is out of range.
    """

    k: int = 8
    group: int = 8
    by: Literal["image", "text"] = "image"
    max_score: float = 0.95

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, number in (("k", self.k), ("group", self.group)):
            if number < 1:
                raise ConfigError(f"neighbours.{name} must be at least 1, not {number}")
        if not -1 < self.max_score <= 1:
            raise ConfigError(
                "neighbours.max_score must be a cosine above -1 and at most 1, not"
                f" {self.max_score}"
            )


def find_neighbours(
    features: Float[Tensor, "rows dim"],
    settings: NeighbourSettings,
    *,
    image_keys: Int[Tensor, " rows"],
    text_keys: Int[Tensor, " texts"],
    text_rows: Int[Tensor, " texts"] | None = None,
    progress: Progress | None = None,
) -> Int[np.ndarray, "rows k"]:
    """Return the k nearest rows of each that are no false negatives, the nearest first.

    Rows that have the image or a caption in common are no neighbours, see `embed.negatives`. All
    rows are compared in float32, where the features are; on two cores 20,000 rows of 512 numbers
    take 5 s, twice as many four times that. The last digits depend on the machine, so processes
    that share a run must not each find their own.

    Args:
        features: of the images or of the captions, of any length but 0.
        settings: `k` and `max_score` count here.
        image_keys: equal numbers for equal images.
        text_keys: equal numbers for equal captions.
        text_rows: which row each of these is a caption of; they are those of the rows, one of each,
            when `None`.
        progress: told how many rows are done, and of how many.

    Returns:
        Numbers of rows; -1 where there are no more.
    """
    n, dim = features.shape
    texts = torch.arange(n) if text_rows is None else text_rows
    keyed: dict[str, Keyed] = {
        "image": (np.arange(n), image_keys.cpu().numpy()),
        "caption": (texts.cpu().numpy(), text_keys.cpu().numpy()),
    }
    held = features.detach().float().cpu().numpy()
    blocks = hard_negatives(
        Vectors(held, n, dim, "float32"),
        settings.k,
        Limits(None, max_score=settings.max_score).ceilings(np.ones(n)),
        Contents(keyed),
        device=features.device,
        progress=progress,
    )
    return np.concatenate([np.zeros((0, settings.k), np.int64), *(part.rows for part in blocks)])
