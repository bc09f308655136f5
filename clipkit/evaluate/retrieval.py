"""Retrieval both ways, with several captions for an image."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.evaluate.bootstrap import resampled_ratios, with_interval
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.evaluate.metrics import mean_rank, median_rank, recall_at
from clipkit.evaluate.pairs import Pairs
from clipkit.evaluate.ranks import match_ranks_both_ways
from clipkit.models.dual_encoder import DualEncoder


class Retrieval:
    """Finds each caption's image among all images, and each image's caption among all captions.

    Every caption of an image is a query of its own and any of them is a right answer; rows with the
    same picture, byte for byte, or the same caption answer one another, so a duplicate never counts
    as a mistake.

    Args:
        data: a data set, or what `load_data` takes, with captions.
        ks: cut-offs of recall.
    """

    def __init__(self, *, data: str | Dataset, ks: tuple[int, ...] = (1, 5, 10)) -> None:
        """Keep the settings; the data is read on first use."""
        self.data = data
        self.ks = ks

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        """Score a model.

        Returns:
            `text_to_image_r{k}` and `image_to_text_r{k}` as shares in [0, 1], and `mean_recall`,
            the mean of all of them; each with the ends of its 95 % bootstrap interval (`…_low`,
            `…_high`). Then median and mean of the ranks of the best match, from 1, of both ways
            (`text_to_image_median_rank`). The interval is over images, with the captions of each,
            since those are not independent queries.

        Raises:
            DataError: when the data has no captions.
        """
        encoder = encoder or DirectEncoder()
        self.data = load_data(self.data)
        image_features, rows = encoder.images(model, self.data)
        pairs = Pairs.of(self.data, rows)
        if not pairs.captions:
            raise DataError(f"{self.data.name}: retrieval needs captions, and its rows have none")
        text_features = encoder.texts(model, pairs.captions)
        matches = pairs.matches()
        texts, images = match_ranks_both_ways(text_features.cpu(), image_features.cpu(), matches)
        captioned = torch.bincount(matches[:, 1], minlength=len(rows)) > 0
        return self._metrics(pairs.image_of, texts, images, captioned)

    def _metrics(
        self,
        image_of: Int[Tensor, " captions"],
        texts: Int[Tensor, " captions"],
        images: Int[Tensor, " images"],
        captioned: Tensor,
    ) -> dict[str, float]:
        """Make metrics of the ranks of captions' images and of images' captions."""
        ways = {"text_to_image": texts, "image_to_text": images[captioned]}
        recalls = {
            f"{way}_r{k}": recall_at(ranks, k) for way, ranks in ways.items() for k in self.ks
        }
        captions = torch.bincount(image_of, minlength=len(images))
        counts = [captions] * len(self.ks) + [captioned] * len(self.ks)
        hits = [torch.bincount(image_of, (texts < k).double(), len(images)) for k in self.ks]
        hits += [(images < k) & captioned for k in self.ks]
        samples = resampled_ratios(_columns(hits)[captioned], _columns(counts)[captioned])
        metrics: dict[str, float] = {}
        for (name, value), sample in zip(recalls.items(), samples.unbind(1), strict=True):
            metrics.update(with_interval(name, value, sample))
        mean = sum(recalls.values()) / len(recalls)
        metrics.update(with_interval("mean_recall", mean, samples.mean(1)))
        for way, ranks in ways.items():
            metrics[f"{way}_median_rank"] = median_rank(ranks)
            metrics[f"{way}_mean_rank"] = mean_rank(ranks)
        return metrics


def _columns(values: list[Tensor]) -> Float[Tensor, "images metrics"]:
    """Put numbers of images side by side."""
    return torch.stack([value.double() for value in values], dim=1)
