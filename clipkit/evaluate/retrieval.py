"""Retrieval both ways, with several captions for an image."""

import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import Dataset, caption_key
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.evaluate.metrics import match_ranks, recall_at
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
            the mean of all of them.

        Raises:
            DataError: when the data has no captions.
        """
        encoder = encoder or DirectEncoder()
        self.data = load_data(self.data)
        image_features, rows = encoder.images(model, self.data)
        captions = [(row, text) for row in rows for text in self.data[row].captions]
        if not captions:
            raise DataError(f"{self.data.name}: retrieval needs captions, and its rows have none")
        text_features = encoder.texts(model, [text for _, text in captions])
        told = zip(self.data, self.data.image_keys(), strict=True)
        keys = [~row if s.image is None else key for row, (s, key) in enumerate(told)]
        matches = _matches(captions, {row: at for at, row in enumerate(rows)}, keys)
        captioned, image_matches = matches[:, 1].unique(return_inverse=True)
        image_features, text_features = image_features.cpu(), text_features.cpu()
        metrics = {}
        t2i = match_ranks(text_features, image_features, matches)
        i2t = match_ranks(
            image_features[captioned],
            text_features,
            torch.stack([image_matches, matches[:, 0]], dim=1),
        )
        for way, ranks in (("text_to_image", t2i), ("image_to_text", i2t)):
            metrics.update({f"{way}_r{k}": recall_at(ranks, k) for k in self.ks})
        metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
        return metrics


def _matches(
    captions: list[tuple[int, str]], position: dict[int, int], image_keys: list[int]
) -> Int[Tensor, "pairs 2"]:
    """Return (caption, image) pairs that belong together.

    An image belongs to a caption that it has, and then so does every copy of that image.
    """
    copies: dict[int, list[int]] = {}
    for row, at in position.items():
        copies.setdefault(image_keys[row], []).append(at)
    images_of: dict[str, set[int]] = {}
    texts = [caption_key(text) for _, text in captions]
    for (row, _), text in zip(captions, texts, strict=True):
        images_of.setdefault(text, set()).update(copies[image_keys[row]])
    return torch.tensor(
        [(at, image) for at, text in enumerate(texts) for image in sorted(images_of[text])]
    )
