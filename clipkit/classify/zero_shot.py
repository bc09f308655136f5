"""ZeroShotClassifier: labels made up on the spot, one object, scikit-learn's manners."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.classify.images import Images, as_samples
from clipkit.classify.labels import Labels, resolve_labels
from clipkit.classify.prompts import resolve_templates
from clipkit.encode import encode_texts, iter_image_features
from clipkit.errors import ConfigError, did_you_mean
from clipkit.models import DualEncoder, load
from clipkit.types import ImageSource, Progress, Reject


def class_features(
    names: Sequence[Sequence[str]],
    templates: Sequence[str],
    encode: Callable[[list[str]], Float[Tensor, "texts dim"]],
) -> Float[Tensor, "classes dim"]:
    """Return one vector for each class: the mean of its prompts' features, on the unit sphere.

    Prompt ensembling as in section 3.1.4 of Radford et al. 2021 (https://arxiv.org/abs/2103.00020):
    the features are normalised, averaged over templates and names, and normalised again.

    Args:
        names: for each class the names that stand for it, at least one.
        templates: prompts with one `{}` each.
        encode: texts to L2-normalised features.
    """
    prompts = [[t.replace("{}", name) for name in group for t in templates] for group in names]
    features = encode([prompt for group in prompts for prompt in group])
    means, start = [], 0
    for group in prompts:
        means.append(features[start : start + len(group)].mean(0))
        start += len(group)
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


class ZeroShotClassifier:
    """Classifies images among labels that the model never saw as labels.

    Zero-shot classification (Radford et al. 2021, https://arxiv.org/abs/2103.00020): each label is
    written into sentences, and an image gets the label whose sentences lie nearest to it. The
    labels are encoded once, on first use.

    Args:
        model: what `clipkit.load` takes, or a model.
        labels: a list; a mapping from label to the names that stand for it; or a txt, json or csv
            file of either.
        templates: "none", "plain", "simple" or "imagenet", or a list of prompts with one `{}` each.
        batch_size: images a forward pass; what suits the device when `None`.

    Attributes:
        classes_: the labels, in the order given.
        rejects_: of the last call: images that could not be read, with the reason.

    Raises:
        ConfigError: for labels or templates that cannot be used.
        ModelError: when there is no such model.

    Example:
        >>> classifier = ZeroShotClassifier("starter", ["cat", "dog"])
        >>> classifier.predict(["my_cat.jpg"])  # doctest: +SKIP
        ['cat']
    """

    def __init__(
        self,
        model: str | Path | DualEncoder,
        labels: Labels,
        *,
        templates: str | Sequence[str] = "simple",
        batch_size: int | None = None,
    ) -> None:
        """Check labels and templates; the model is loaded here where a name is given."""
        self.labels = labels
        self.templates = templates
        self.batch_size = batch_size
        self._names = resolve_labels(labels)
        self._prompts = resolve_templates(templates)
        self.model = model
        self._encoder = model if isinstance(model, DualEncoder) else load(model)
        self._weights: Tensor | None = None
        self.classes_ = np.array(list(self._names))
        self.rejects_: list[Reject] = []

    def predict(self, images: Images, *, progress: Progress | None = None) -> list[str | None]:
        """Return the likeliest label of each image, `None` for one that cannot be read.

        Args:
            images: files, a folder, a glob, PIL images, arrays uint8 [height, width, 3], a data
                set, or an iterable of such.
            progress: told how many images are done.
        """
        scores = self.decision_function(images, progress=progress)
        return [None if np.isnan(row[0]) else str(self.classes_[row.argmax()]) for row in scores]

    def predict_proba(
        self, images: Images, *, progress: Progress | None = None
    ) -> Float[np.ndarray, "images classes"]:
        """Return the probability of each label, a row of NaN for an image that cannot be read.

        Softmax over the labels, or for models trained with the sigmoid loss a probability for each
        label by itself.
        """
        logits = torch.from_numpy(self.decision_function(images, progress=progress))
        softmax = self._encoder.similarity == "softmax"
        proba: np.ndarray = (logits.softmax(1) if softmax else logits.sigmoid()).numpy()
        return proba

    def decision_function(
        self, images: Images, *, progress: Progress | None = None
    ) -> Float[np.ndarray, "images classes"]:
        """Return the logits, `logit_scale * cosine (+ logit_bias)`; NaN for an unread image."""
        weights = self._label_features()
        self.rejects_ = []
        self._ids: list[str] = []
        rows = [np.zeros((0, len(self.classes_)), np.float32)]
        total = len(images) if isinstance(images, list | tuple) else None
        sources = self._sources(images)
        for batch in iter_image_features(self._encoder, sources, batch_size=self.batch_size):
            with torch.inference_mode():
                cosine = batch.features @ weights.T
                logits = self._encoder.logit_scale.cpu() * cosine
                if self._encoder.logit_bias is not None:
                    logits = logits + self._encoder.logit_bias.cpu()
            block = np.full((len(batch.indices) + len(batch.errors), len(weights)), np.nan, "f4")
            block[[index - batch.start for index in batch.indices]] = logits.numpy()
            rows.append(block)
            self.rejects_ += [Reject(self._ids[at], reason) for at, reason in batch.errors]
            if progress is not None:
                progress(batch.start + len(block), total)
        return np.concatenate(rows)

    def score(self, images: Images, labels: Sequence[str]) -> float:
        """Return the share of images that get the label given; an unread image counts as wrong.

        Raises:
            ConfigError: there are not as many labels as images, or one is not among the classes.
        """
        known = set(self.classes_.tolist())
        for label in labels:
            if label not in known:
                raise ConfigError(f"labels: {label!r} is no class{did_you_mean(str(label), known)}")
        predicted = self.predict(images)
        if len(predicted) != len(labels):
            raise ConfigError(f"labels: {len(labels)} labels for {len(predicted)} images")
        right = [found == label for found, label in zip(predicted, labels, strict=True)]
        return float(np.mean(right)) if right else float("nan")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the constructor was given, as scikit-learn wants it."""
        return {
            name: getattr(self, name) for name in ("model", "labels", "templates", "batch_size")
        }

    def set_params(self, **params: Any) -> "ZeroShotClassifier":
        """Change what the constructor was given; the labels are encoded anew."""
        current = self.get_params()
        for name in params:
            if name not in current:
                raise ConfigError(f"{name!r} is no parameter{did_you_mean(name, current)}")
        current.update(params)
        self.__init__(**current)  # type: ignore[misc]
        return self

    def __repr__(self) -> str:
        """Show model, labels and prompts, so that nobody has to guess."""
        labels = ", ".join(map(repr, self.classes_[:5].tolist()))
        more = f", … {len(self.classes_)} in all" if len(self.classes_) > 5 else ""
        prompts = ", ".join(map(repr, self._prompts[:3]))
        rest = f", … {len(self._prompts)} in all" if len(self._prompts) > 3 else ""
        name = self._encoder.name or "model"
        return f"ZeroShotClassifier({name!r}, labels=[{labels}{more}], templates=[{prompts}{rest}])"

    def _label_features(self) -> Float[Tensor, "classes dim"]:
        """Encode the labels, once."""
        if self._weights is None:
            self._weights = class_features(
                list(self._names.values()),
                self._prompts,
                lambda texts: encode_texts(self._encoder, texts),
            )
        return self._weights

    def _sources(self, images: Images) -> Iterator[ImageSource | None]:
        """Yield the images and keep their ids."""
        for sample in as_samples(images):
            self._ids.append(sample.id)
            yield sample.image
