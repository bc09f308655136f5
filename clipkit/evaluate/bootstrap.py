"""Confidence intervals by the bootstrap (Efron 1979), without drawing a single row.

Rows drawn with replacement come, in numbers of each kind, from a multinomial distribution. So the
kinds of rows that there are (right or wrong, of which class) are counted once and their numbers
drawn at once, which is the same and costs nothing.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
BATCH = 100
"""Resamples held at a time where each class has numbers of its own."""


def draw(
    counts: Int[Tensor, " kinds"], resamples: int, rng: np.random.Generator
) -> Float[Tensor, "resamples kinds"]:
    """Return how many rows of each kind there are in resamples of all rows.

    Args:
        counts: rows of each kind, 1 at least.
        resamples: how many.
        rng: what draws.
    """
    numbers = counts.cpu().double().numpy()
    drawn = rng.multinomial(int(counts.sum()), numbers / numbers.sum(), size=resamples)
    return torch.from_numpy(drawn).double()


def resampled_ratios(
    numerators: Float[Tensor, "rows metrics"], denominators: Float[Tensor, "rows metrics"]
) -> Float[Tensor, "resamples metrics"]:
    """Return sum of numerators / sum of denominators over resamples of the rows.

    Metrics of one resample are of the same rows, so that their mean is a resampled mean.
    """
    both = torch.cat([numerators, denominators], dim=1).cpu().double()
    kinds, counts = torch.unique(both, dim=0, return_counts=True)
    drawn = draw(counts, RESAMPLES, np.random.default_rng(SEED))
    above, below = (drawn @ kinds).chunk(2, dim=1)
    ratios: Tensor = above / below
    return ratios


def resampled_class_recall(
    labels: Int[Tensor, " images"], right: Bool[Tensor, " images"]
) -> Float[Tensor, " resamples"]:
    """Return the mean recall of classes over resamples of the images, of those drawn in each."""
    kinds, counts = torch.unique(
        torch.stack([labels, right.long()], dim=1), dim=0, return_counts=True
    )
    _, place = kinds[:, 0].unique(return_inverse=True)
    classes = int(place.max()) + 1
    is_right = kinds[:, 1] == 1
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(RESAMPLES // BATCH):
        drawn = draw(counts, BATCH, rng)
        total = torch.zeros(BATCH, classes).double().index_add(1, place, drawn)
        hits = (
            torch.zeros(BATCH, classes).double().index_add(1, place[is_right], drawn[:, is_right])
        )
        means.append((hits / total).nanmean(1))
    return torch.cat(means)


def interval(samples: Float[Tensor, " resamples"]) -> tuple[float, float]:
    """Return the middle 95 % of resampled values; of a value that is always 1, just that."""
    outside = (1 - LEVEL) / 2
    ends = torch.tensor([outside, 1 - outside], dtype=samples.dtype)
    low, high = torch.nanquantile(samples, ends).tolist()
    return low, high


def with_interval(
    name: str, value: float, samples: Float[Tensor, " resamples"]
) -> dict[str, float]:
    """Return a metric and its interval: `name`, `name_low`, `name_high`."""
    low, high = interval(samples)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
