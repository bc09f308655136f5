"""From images to logits of labels: what is behind the calls of a zero-shot classifier."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.classify.estimator import Estimator
from clipkit.classify.features import FeatureBlock, iter_features
from clipkit.classify.head import Head, kept_class_features, zero_shot_head
from clipkit.classify.images import Images
from clipkit.classify.other import OTHER, Other
from clipkit.classify.temperature import Calibration, Temperature, probabilities
from clipkit.encode import encode_texts
from clipkit.errors import ConfigError, DataError, did_you_mean
from clipkit.models import DualEncoder
from clipkit.models.dual_encoder import Similarity
from clipkit.types import Progress, Reject

Truth = Sequence[str | None] | np.ndarray | None
"""The label of each image; `None` where the images are a data set that has them."""


class LabelScorer(Estimator):
    """Encodes labels once and images as they come, and scores one against the other."""

    scores: str
    other: Other
    batch_size: int | None
    classes_: np.ndarray
    rejects_: list[Reject]
    calibration_: Calibration | None
    _encoder: DualEncoder
    _names: dict[str, tuple[str, ...]]
    _prompts: tuple[str, ...]
    _background: tuple[str, ...]
    _head: Head | None
    _others: Head | None
    _temperature: Temperature

    @property
    def _similarity(self) -> Similarity:
        """What the logits mean."""
        if self.scores == "auto":
            return self._encoder.similarity
        return "softmax" if self.scores == "softmax" else "sigmoid"

    def _heads(self) -> tuple[Head, Head | None]:
        """Encode the labels, and what stands for none of them, once."""
        if self._head is None:
            self._head, self._others = self._encode_labels()
        return self._head, self._others

    def _encode_labels(self) -> tuple[Head, Head | None]:
        """Return the heads of the labels, and of what stands for none of them, by texts alone."""
        names = list(self._names.values())
        features = kept_class_features(self._encoder, names, self._prompts)
        head = zero_shot_head(self._encoder, features)
        if not self._background:
            return head, None
        texts = encode_texts(self._encoder, self._background)
        return head, zero_shot_head(self._encoder, texts)

    def _join(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images classes"]:
        """Return calibrated logits of features: of the labels, and of "other" by its prompts."""
        return self._temperature(self._with_other(self._heads()[0](features), features))

    def _with_other(
        self, logits: Float[Tensor, "images labels"], features: Float[Tensor, "images dim"]
    ) -> Float[Tensor, "images classes"]:
        """Return logits of labels, and behind them that of "other", where prompts stand for it."""
        others = self._heads()[1]
        if others is None:
            return logits
        each = others(features)
        softmax = self._similarity == "softmax"
        one = each.logsumexp(1, keepdim=True) if softmax else each.amax(1, keepdim=True)
        return torch.cat([logits, one], dim=1)

    def _proba(self, logits: Float[Tensor, "images classes"]) -> Float[Tensor, "images classes"]:
        alone = self._similarity == "sigmoid"
        if alone and self._encoder.logit_bias is None and self.calibration_ is None:
            raise ConfigError(
                "scores: this model has no bias to make a probability of each label by itself;"
                " call calibrate first, or take softmax"
            )
        return probabilities(logits, self._similarity)

    def _blocks(self, images: Images, progress: Progress | None = None) -> Iterator[FeatureBlock]:
        """Encode images block by block, and collect those that cannot be read."""
        self._heads()
        self.rejects_ = []
        blocks = iter_features(self._encoder, images, self.batch_size, progress)
        for block in blocks:
            self.rejects_ += block.rejects
            yield block

    def _logits(
        self, images: Images, progress: Progress | None
    ) -> Float[np.ndarray, "images classes"]:
        """Return logits of all images, NaN for those that cannot be read."""
        rows = [np.zeros((0, len(self.classes_)), np.float32)]
        for block in self._blocks(images, progress):
            rows.append(np.full((block.size, len(self.classes_)), np.nan, np.float32))
            rows[-1][block.places] = self._join(block.features).numpy()
        return np.concatenate(rows)

    def _labelled(
        self, images: Images, labels: Truth
    ) -> tuple[Float[Tensor, "images dim"], Int[Tensor, " images"]]:
        """Return the features of the images that can be read, and the columns of their labels.

        The column of "other" is that behind the labels.
        """
        features, own, kept, count = [], [], [], 0
        for block in self._blocks(images):
            features.append(block.features)
            own += block.labels
            kept += [count + at for at in block.places]
            count += block.size
        truth = self._truth(own if labels is None else labels, count)
        if not kept:
            raise DataError(f"none of the {count} images can be read")
        columns = {label: at for at, label in enumerate([*self._names, OTHER])}
        return torch.cat(features), torch.tensor([columns[truth[at]] for at in kept])

    def _truth(self, labels: Truth, count: int) -> list[str]:
        """Check the labels of images."""
        told = [] if labels is None else [None if x is None else str(x) for x in labels]
        if None in told:
            raise ConfigError(
                f"labels: {told.count(None)} of {len(told)} images have none; give one for each"
            )
        if len(told) != count:
            raise ConfigError(f"labels: {len(told)} labels for {count} images; give one for each")
        known = {*self._names, *([OTHER] if self.other is not None else [])}
        for label in told:
            if label not in known:
                raise ConfigError(f"labels: {label!r} is no class{did_you_mean(str(label), known)}")
        return [str(label) for label in told]
