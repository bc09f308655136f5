"""How images and texts lie on the sphere, whatever they are used for."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.evaluate.answers import Labelled
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.evaluate.pairs import Pairs, first_of_each, image_numbers
from clipkit.evaluate.ranks import PAIRS, blocks
from clipkit.models.dual_encoder import DualEncoder

TEMPERATURE = 2.0
"""The t of uniformity."""


class Geometry:
    """Tells distances, spread and dimension of the features.

    Distances are Euclidean, in [0, 2]. Each picture and each caption counts once, however often
    the data has it, so that a duplicate is never a negative. Of captioned data a positive is a
    picture and a caption of it, and any other picture and caption are a negative; of labelled data
    without captions they are two pictures of one class, and of two.

    Args:
        data: a data set, or what `load_data` takes, with captions or labels.
        positives: "captions" or "labels" where the data has both; captions where it has them if
            `None`.
    """

    def __init__(
        self, *, data: str | Dataset, positives: Literal["captions", "labels"] | None = None
    ) -> None:
        """Keep them; the data is read on first use."""
        self.data = data
        self.positives = positives

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        """Describe a model's features.

        Returns:
            `d_positive` and `d_negative`, the mean distances; `alignment`, the mean squared
            distance of positives, and `image_uniformity` and `text_uniformity`, the logarithm of
            the mean of exp(-2 * squared distance) over all pairs of pictures and of captions (Wang
            & Isola 2020, https://arxiv.org/abs/2005.10242; less is better of all three);
            `modality_gap`, the distance between the means of pictures and captions (Liang et al.
            2022, https://arxiv.org/abs/2203.02053); `image_effective_rank` and
            `text_effective_rank`, the exponential of the entropy of the singular values (Roy &
            Vetterli 2007). Those of texts and the gap only where there are captions.

        Raises:
            DataError: when the data has neither captions nor labels, or no positive or no negative.
        """
        encoder = encoder or DirectEncoder()
        self.data = data = load_data(self.data)
        images, rows = encoder.images(model, data)
        pairs = Pairs.of(data, rows)
        if self.positives == "captions" and not pairs.captions:
            raise DataError(f"{data.name}: geometry of captions needs some, and it has none")
        if pairs.captions and self.positives != "labels":
            texts = encoder.texts(model, pairs.captions)
            return _captioned(data.name, images.cpu(), texts.cpu(), pairs)
        labelled = Labelled.of(data, rows)
        if not labelled.places:
            needed = self.positives or "captions or labels"
            raise DataError(f"{data.name}: geometry needs {needed}, and it has none")
        keys = image_numbers(data, [rows[place] for place in labelled.places])
        once = first_of_each(keys)
        labels = labelled.numbers(tuple(sorted(set(labelled.labels))))
        return _labelled(data.name, images[labelled.places][once].cpu(), labels[once])


@dataclass
class Distances:
    """Sums over pairs, from which means are made.

    Attributes:
        count: how many pairs.
        total: of their distances.
        squares: of the squared ones.
        likeness: of exp(-2 * squared distance).
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    likeness: float = 0.0

    def add(self, squared: Float[Tensor, "..."]) -> None:
        """Count some pairs by their squared distances."""
        squared = squared.clamp_min(0)
        self.count += squared.numel()
        self.total += float(squared.sqrt().sum(dtype=torch.float64))
        self.squares += float(squared.sum(dtype=torch.float64))
        self.likeness += float((-TEMPERATURE * squared).exp().sum(dtype=torch.float64))

    def add_pairs(
        self, rows: Float[Tensor, "pairs dim"], others: Float[Tensor, "pairs dim"]
    ) -> None:
        """Count some pairs by their differences: the small distances of positives are exact."""
        self.add((rows - others).square().sum(1))

    def without(self, some: "Distances") -> "Distances":
        """Return the sums over the pairs that are not among some of these."""
        return Distances(
            self.count - some.count,
            self.total - some.total,
            self.squares - some.squares,
            self.likeness - some.likeness,
        )

    @property
    def mean(self) -> float:
        """The mean distance."""
        return self.total / self.count

    @property
    def uniformity(self) -> float:
        """The logarithm of the mean of exp(-2 * squared distance)."""
        return math.log(self.likeness / self.count) if self.likeness else -math.inf


def _captioned(
    name: str,
    images: Float[Tensor, "images dim"],
    texts: Float[Tensor, "texts dim"],
    pairs: Pairs,
) -> dict[str, float]:
    """Describe pictures and captions."""
    matches = pairs.keys_together()
    captioned, picture = matches[:, 1].unique(return_inverse=True)
    matches = torch.stack([matches[:, 0], picture], dim=1)
    images = images[first_of_each(pairs.image_keys)[captioned]]
    texts = texts[first_of_each(pairs.caption_keys)]
    positive, everything, matched = Distances(), Distances(), Distances()
    for part in matches.split(PAIRS):
        positive.add_pairs(texts[part[:, 0]], images[part[:, 1]])
    for rows, columns, row, column in blocks(len(texts), len(images), matches):
        squared = squared_distances(texts[rows], images[columns])
        everything.add(squared)
        matched.add(squared[row, column])
    negative = everything.without(matched)
    _check(name, positive, negative, "a picture and a caption that do not belong together")
    gap = images.double().mean(0) - texts.double().mean(0)
    return {
        "d_positive": positive.mean,
        "d_negative": negative.mean,
        "alignment": positive.squares / positive.count,
        "image_uniformity": _among(images)[0].uniformity,
        "text_uniformity": _among(texts)[0].uniformity,
        "modality_gap": float(gap.norm()),
        "image_effective_rank": effective_rank(images),
        "text_effective_rank": effective_rank(texts),
    }


def _labelled(
    name: str, images: Float[Tensor, "images dim"], labels: Int[Tensor, " images"]
) -> dict[str, float]:
    """Describe pictures of classes."""
    everything, positive = _among(images, labels)
    negative = everything.without(positive)
    _check(name, positive, negative, "two pictures of one class and two of different ones")
    return {
        "d_positive": positive.mean,
        "d_negative": negative.mean,
        "alignment": positive.squares / positive.count,
        "image_uniformity": everything.uniformity,
        "image_effective_rank": effective_rank(images),
    }


def _check(name: str, positive: Distances, negative: Distances, needed: str) -> None:
    """Raise DataError where a mean would be of nothing."""
    if not positive.count or not negative.count:
        raise DataError(f"{name}: geometry needs {needed}, each counted once; there are none")


def _among(
    rows: Float[Tensor, "rows dim"], labels: Int[Tensor, " rows"] | None = None
) -> tuple[Distances, Distances]:
    """Return the distances of all pairs of different rows, each counted once.

    Args:
        rows: features.
        labels: of the rows.

    Returns:
        Of all pairs, and of those with one label.
    """
    found, alike = Distances(), Distances()
    for down, across, _, _ in blocks(len(rows), len(rows), torch.zeros(0, 2, dtype=torch.long)):
        if across.stop <= down.start + 1:
            continue  # on or below the diagonal
        squared = squared_distances(rows[down], rows[across])
        row = torch.arange(down.start, down.stop)[:, None]
        above = row < torch.arange(across.start, across.stop)
        found.add(squared if across.start >= down.stop else squared[above])
        if labels is not None:
            alike.add(squared[above & (labels[down][:, None] == labels[across])])
    return found, alike


def squared_distances(
    rows: Float[Tensor, "rows dim"], others: Float[Tensor, "others dim"]
) -> Float[Tensor, "rows others"]:
    """Return the squared distances of L2-normalised rows from others."""
    return 2 - 2 * (rows @ others.T)


def effective_rank(features: Float[Tensor, "rows dim"]) -> float:
    """Return exp(entropy of the singular values, as shares of their sum) (Roy & Vetterli 2007).

    From 1, all features on a line, to the number of dimensions. The singular values are the roots
    of the eigenvalues of the dim x dim products.
    """
    products = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for chunk in features.split(PAIRS):
        products += chunk.double().T @ chunk.double()
    values = torch.linalg.eigvalsh(products).clamp_min(0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
