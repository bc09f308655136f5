"""ZeroShotClassifier: labels made up on the spot, one object, scikit-learn's manners."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.classify.features import are_features
from clipkit.classify.few_shot import ADAPT, Adapt, FewShot, adapt_head, left_out_logits
from clipkit.classify.files import ClassifierFile, read_classifier, write_classifier
from clipkit.classify.head import Head
from clipkit.classify.images import Images, as_samples
from clipkit.classify.labels import Labels, resolve_labels
from clipkit.classify.other import OTHER, Other, resolve_other
from clipkit.classify.prompts import resolve_templates
from clipkit.classify.scorer import LabelScorer, Truth
from clipkit.classify.temperature import (
    Calibration,
    Temperature,
    calibrate_head,
    fit_threshold,
    probabilities,
)
from clipkit.errors import ConfigError, DataError, did_you_mean
from clipkit.models import DualEncoder, load
from clipkit.types import Progress, Reject

SCORES = ("auto", "softmax", "sigmoid")
Fitted = tuple[Head, Float[Tensor, "images dim"], Int[Tensor, " images"]]
"""What `fit` started from: the head of the labels alone, and images with their columns."""


class ZeroShotClassifier(LabelScorer):
    """Classifies images among labels that the model never saw as labels.

    Zero-shot classification (Radford et al. 2021, https://arxiv.org/abs/2103.00020): each label is
    written into sentences, and an image gets the label whose sentences lie nearest to it. The
    labels are encoded once, on first use; those of many prompts are kept in the cache folder.

    It can be used at once, calibrated, and made better by a few labelled images. It is a classifier
    to scikit-learn: `clone`, `Pipeline`, `cross_val_score` and `GridSearchCV` take it. Columns are
    in the order of the labels as given; scikit-learn's scorers of probabilities want that sorted.

    `transformers`' zero-shot pipeline gives the same probabilities for one template and upright
    opaque RGB pictures. Here, other than there, several templates make one label; the default is
    seven; labels are encoded once, not for every image; EXIF turns a picture upright, and what is
    transparent lies on white.

    Args:
        model: what `clipkit.load` takes, or a model.
        labels: a list; a mapping from label to the names, synonyms or descriptions that stand for
            it; a txt, json or csv file of either; or a data set with classes, or its name.
        templates: "none", "plain", "simple" or "imagenet", or a list of prompts with one `{}` each.
        scores: "softmax" for probabilities that sum to 1 over the labels, "sigmoid" for one of each
            label by itself; "auto" for what the model was trained with.
        other: what stands for none of the labels, which is then answered by "other". A number in
            (0, 1): the probability that the likeliest label must have. A text or several, such as
            "a photo": prompts of a label "other" that competes with the labels.
        adapt: what `fit` may do: "cache" lets the labelled images vote, "linear" moves the labels'
            features, "auto" takes the better, "none" leaves all as it is.
        batch_size: images a forward pass; what suits the device when `None`.

    Attributes:
        classes_: the labels, in the order given; "other" last where prompts stand for it.
        rejects_: of the last call: images that could not be read, with the reason.
        threshold_: probability that the likeliest label must have, or `None`.
        few_shot_: what `fit` did, if it was called.
        calibration_: what `calibrate` found, if it was called.

    Raises:
        ConfigError: for labels, templates or options that cannot be used.
        ModelError: when there is no such model.

    Example:
        >>> classifier = ZeroShotClassifier("starter", ["cat", "dog"])
        >>> classifier.predict(["my_cat.jpg"])  # doctest: +SKIP
        array(['cat'], dtype='<U3')
    """

    parameters = ("model", "labels", "templates", "scores", "other", "adapt", "batch_size")

    def __init__(
        self,
        model: str | Path | DualEncoder,
        labels: Labels,
        *,
        templates: str | Sequence[str] = "simple",
        scores: Literal["auto", "softmax", "sigmoid"] = "auto",
        other: Other = None,
        adapt: Adapt = "auto",
        batch_size: int | None = None,
    ) -> None:
        """Check all options; the model is loaded here where a name is given."""
        self.model = model
        self.labels = labels
        self.templates = templates
        self.scores = scores
        self.other = other
        self.adapt = adapt
        self.batch_size = batch_size
        for name, value, known in (("scores", scores, SCORES), ("adapt", adapt, ADAPT)):
            if value not in known:
                raise ConfigError(f"{name}: {value!r} is unknown{did_you_mean(str(value), known)}")
        self._names = resolve_labels(labels)
        self._prompts = resolve_templates(templates)
        self._background, self.threshold_ = resolve_other(other)
        if len(self._names) < 2 and other is None and scores != "sigmoid":
            raise ConfigError(
                f"labels: there is one label only, {next(iter(self._names))!r}; give two or more,"
                " or say by `other` what stands for none of them"
            )
        if other is not None and OTHER in self._names:
            raise ConfigError(f"labels: {OTHER!r} is what `other` answers; rename that label")
        before, encoder = getattr(self, "_loaded", (None, None))
        if encoder is None or before != model:
            encoder = model if isinstance(model, DualEncoder) else load(model)
        self._loaded = (model, encoder)
        self._encoder: DualEncoder = encoder
        if len(self._names) < 2 and self.threshold_ is not None and self._similarity == "softmax":
            raise ConfigError(
                "other: by softmax the probability of one label alone is always 1; give a text for"
                " `other`, such as 'a photo', or two labels"
            )
        self._head: Head | None = None
        self._others: Head | None = None
        self._fitted: Fitted | None = None
        self._temperature = Temperature()
        self.classes_ = np.array([*self._names, *[OTHER] * bool(self._background)])
        self.rejects_: list[Reject] = []
        self.few_shot_: FewShot | None = None
        self.calibration_: Calibration | None = None

    def predict(self, images: Images, *, progress: Progress | None = None) -> np.ndarray:
        """Return the likeliest label of each image [images], `None` for one that cannot be read.

        Args:
            images: files, a folder, a glob, PIL images, arrays, tensors, a column of `datasets`, a
                data set, a generator of such, or image features [images, dim]; see `as_samples`.
            progress: told how many images are done.
        """
        answers: list[str | None] = []
        for block in self._blocks(images, progress):
            logits = self._join(block.features)
            found = self.classes_[logits.argmax(1).numpy()].astype(object)
            if self.threshold_ is not None:
                found[(self._proba(logits).amax(1) < self.threshold_).numpy()] = OTHER
            labels = np.full(block.size, None, dtype=object)
            labels[block.places] = found
            answers += labels.tolist()
        return np.array(answers, dtype=object if None in answers else str)

    def predict_proba(
        self, images: Images, *, progress: Progress | None = None
    ) -> Float[np.ndarray, "images classes"]:
        """Return the probability of each label, a row of NaN for an image that cannot be read.

        Softmax over the labels, or by sigmoid a probability for each label by itself, see `scores`.

        Raises:
            ConfigError: a model without a bias of its own has sigmoid scores only once they are
                calibrated.
        """
        logits = torch.from_numpy(self._logits(images, progress))
        return np.asarray(self._proba(logits))

    def decision_function(
        self, images: Images, *, progress: Progress | None = None
    ) -> Float[np.ndarray, "images ..."]:
        """Return logits [images, classes], of two labels the second's less the first's [images].

        They are `logit_scale * cosine (+ logit_bias)` unless `fit` or `calibrate` changed them; NaN
        for an image that cannot be read.
        """
        logits = self._logits(images, progress)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def score(self, images: Images, labels: Truth = None) -> float:
        """Return the share of images whose label is predicted; one that cannot be read is wrong.

        Raises:
            ConfigError: a label that is none of the classes, or not one for each image.
        """
        if labels is None and are_features(images):
            raise ConfigError("labels: features come without; give one for each row")
        if labels is None:
            samples = list(as_samples(images))
            images, labels = samples, [sample.label for sample in samples]
        predicted = self.predict(images).tolist()
        truth = self._truth(labels, len(predicted))
        right = [found == label for found, label in zip(predicted, truth, strict=True)]
        return float(np.mean(right)) if right else float("nan")

    def fit(self, images: Images, labels: Truth = None) -> "ZeroShotClassifier":
        """Make the classifier better with labelled images: a handful of each label is enough.

        See `few_shot.adapt_head`. It starts from the labels alone each time, and forgets an earlier
        calibration. Images that cannot be read are left out, see `rejects_`.

        Raises:
            ConfigError: a label that is none of the classes, or not one for each image, or all
                images of one label.
            DataError: none of the images can be read.
        """
        features, columns = self._labelled(images, labels)
        if len(self._names) > 1 and len(columns.unique()) == 1:
            only = [*self._names, OTHER][int(columns[0])]
            raise ConfigError(f"labels: all images are of {only!r}; fit learns from two or more")
        if bool((columns == len(self._names)).any()):
            raise ConfigError(
                f"labels: fit learns from images of the labels, not of {OTHER!r}; calibrate takes"
                " those too"
            )
        head, others = self._heads() if self.few_shot_ is None else self._encode_labels()
        self._head, self.few_shot_ = adapt_head(head, features, columns, self.adapt)
        self._others, self._fitted = others, (head, features, columns)
        self._temperature, self.calibration_ = Temperature(), None
        self.threshold_ = resolve_other(self.other)[1]
        return self

    def calibrate(self, images: Images = None, labels: Truth = None) -> Calibration:
        """Make probabilities mean what they say, by labelled images that `fit` did not see.

        Without images, by those that it did see: each is judged by a fit that left it out.

        A temperature for all logits (Guo et al. 2017, https://arxiv.org/abs/1706.04599), besides a
        shift where the scores are sigmoids. Which label is the likeliest does not change. Where
        `other` is a threshold and some images have the label "other", the threshold that tells them
        from the rest best replaces it.

        Returns:
            What was found, with the expected calibration error before and after.

        Raises:
            ConfigError: a label that is none of the classes, or not one for each image; or no
                images, and `fit` was not called since this was made or loaded.
            DataError: none of the images can be read, or none is of the labels; or no label has two
                of the images that `fit` saw, so that none can be left out.
        """
        plain, features, columns = self._to_calibrate(images, labels)
        known = columns < len(self.classes_)
        if not bool(known.any()):
            raise DataError(f"calibrate: all {len(columns)} images are of {OTHER!r}")
        logits = self._with_other(plain, features)
        found = calibrate_head(logits[known], columns[known], self._similarity)
        self._temperature = found.temperature
        if not bool(known.all()):
            confidence = probabilities(found.temperature(logits), self._similarity).amax(1)
            self.threshold_ = fit_threshold(confidence, known)
        self.calibration_ = Calibration(
            found.temperature, self.threshold_, found.images, found.ece_before, found.ece_after
        )
        return self.calibration_

    def _to_calibrate(
        self, images: Images, labels: Truth
    ) -> tuple[Float[Tensor, "images labels"], Float[Tensor, "images dim"], Int[Tensor, " images"]]:
        """Return logits by a head that did not see the images, their features and columns."""
        if images is not None:
            features, columns = self._labelled(images, labels)
            return self._heads()[0](features), features, columns
        if self._fitted is None or self.few_shot_ is None:
            raise ConfigError("calibrate: give labelled images, or call fit first")
        head, features, columns = self._fitted
        logits, rows = left_out_logits(head, features, columns, self.few_shot_.choice)
        if not len(rows):
            raise DataError(
                "calibrate: no label has two of the images that fit saw, so that none can be left"
                " out to calibrate on; give other labelled images"
            )
        return logits, features[rows], columns[rows]

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load` reads: the labels' features, and the model's image side.

        The text side is not in it; nothing needs to come from elsewhere.

        Raises:
            ModelError: the folder holds something else, or the model was loaded in bf16.
        """
        head, others = self._heads()
        content = ClassifierFile(
            labels=self._names,
            templates=self._prompts,
            scores=self.scores,
            other=self.other if isinstance(self.other, str) else self._background or self.other,
            adapt=self.adapt,
            threshold=self.threshold_,
            temperature=self._temperature,
            head=head,
            others=others,
            few_shot=self.few_shot_,
            calibration=self.calibration_,
        )
        write_classifier(Path(folder), content, self._encoder)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> "ZeroShotClassifier":
        """Read what `save` wrote.

        Args:
            folder: the folder.
            device: where images are encoded, such as "cuda"; the CPU when `None`.

        Raises:
            ModelError: the folder holds something else, or a file in it is missing or changed.
        """
        found, side = read_classifier(Path(folder))
        made = cls(
            side.to(device or "cpu"),
            found.labels,
            templates=list(found.templates),
            scores=found.scores,
            other=found.other,
            adapt=found.adapt,
        )
        made._head, made._others = found.head, found.others
        made._temperature, made.threshold_ = found.temperature, found.threshold
        made.few_shot_, made.calibration_ = found.few_shot, found.calibration
        return made

    def __repr__(self) -> str:
        """Show model, labels, prompts and what was fitted, so that nobody has to guess."""
        parts = [repr(self._encoder.name or "model")]
        for name, texts in (("labels", list(self._names)), ("templates", list(self._prompts))):
            shown = ", ".join(map(repr, texts[:5]))
            more = f", … {len(texts)} in all" if len(texts) > 5 else ""
            parts.append(f"{name}=[{shown}{more}]")
        parts.append(f"scores={self._similarity!r}")
        if self.other is not None:
            threshold = None if self.threshold_ is None else round(self.threshold_, 4)
            parts.append(f"other={threshold if threshold is not None else self.other!r}")
        if self.few_shot_ is not None:
            parts.append(f"fitted={self.few_shot_.choice.method!r}")
        if self._temperature != Temperature():
            parts.append(f"temperature={self._temperature.value:.3g}")
        return f"ZeroShotClassifier({', '.join(parts)})"
