"""Which rows of the training data are neighbours, so that a batch can hold hard negatives.

`clipkit.data.neighbour_order` turns them into the order of an epoch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.data.neighbour_order import neighbour_order
from clipkit.data.visits import Order
from clipkit.embed.contents import Contents, Keyed
from clipkit.embed.negatives import Limits, hard_negatives
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder, load
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.processes import is_main_process, told_by_main
from clipkit.types import Progress


@dataclass(frozen=True, slots=True)
class NeighbourSettings:
    """How neighbours come into one batch.

    Attributes:
        k: how many neighbours of a row are known.
        group: rows that are put together; a batch of 128 in groups of 8 has some 16 of them.
        by: whether rows are neighbours by their images or by their captions.
        max_score: what has a cosine above this is taken for the same thing, and is no neighbour.
        model: who says what is near, as `clipkit.load` takes it; the model that is trained, as it
            is before the first step, if null.

    Raises:
        ConfigError: a number is out of range.
    """

    k: int = 8
    group: int = 8
    by: Literal["image", "text"] = "image"
    max_score: float = 0.95
    model: str | None = None

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


def order_by_neighbours(
    model: DualEncoder,
    data: Dataset,
    rows: Int[np.ndarray, " rows"],
    cache: FeatureCache,
    settings: NeighbourSettings,
    *,
    seed: int,
) -> Order:
    """Return the order of some rows in which neighbours stand together.

    Args:
        model: what trains, before its first step.
        data: what it trains on.
        rows: of the data, with image and caption.
        cache: encodes them.
        settings: who are neighbours.
        seed: of the order.
    """
    found = told_by_main(
        _neighbours_of(model, data, rows, cache, settings) if is_main_process() else None
    )

    def order(epoch: int) -> Int[np.ndarray, " visits"]:
        return neighbour_order(found, group=settings.group, seed=seed, epoch=epoch)

    return order


def _neighbours_of(
    model: DualEncoder,
    data: Dataset,
    rows: Int[np.ndarray, " rows"],
    cache: FeatureCache,
    settings: NeighbourSettings,
) -> Int[np.ndarray, "rows k"]:
    """Encode the rows and find the neighbours of each."""
    judge = model if settings.model is None else load(settings.model, device=str(model.device))
    captions = [data[int(row)].captions for row in rows]
    counts = torch.tensor([len(some) for some in captions])
    keys = [data.caption_key(caption) for some in captions for caption in some]
    if settings.by == "image":
        features, read = cache.images(judge, data)
        place = {row: at for at, row in enumerate(read)}
        kept = [at for at, row in enumerate(rows.tolist()) if row in place]
        shown = features.new_ones(len(rows), features.shape[1])  # what cannot be read is skipped
        shown[kept] = features[[place[int(rows[at])] for at in kept]]
    else:
        shown = cache.texts(judge, [some[0] for some in captions])
    return find_neighbours(
        shown,
        settings,
        image_keys=torch.tensor(data.image_keys())[torch.from_numpy(rows).long()],
        text_keys=torch.tensor(keys),
        text_rows=torch.repeat_interleave(torch.arange(len(rows)), counts),
    )
