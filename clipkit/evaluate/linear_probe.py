"""Linear probe: how well a linear classifier on the frozen image features does."""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.classify.linear_head import Head, fit_linear_head
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.errors import ConfigError, DataError
from clipkit.evaluate.answers import Labelled, answer
from clipkit.evaluate.details import ClassificationDetails
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.models.dual_encoder import DualEncoder

PENALTIES = tuple(10.0**exponent for exponent in range(-1, -8, -1))
"""Tried one after the other; then two more about the best, half a decade away."""

PATIENCE = 2
"""Penalties in a row, ever weaker, that choose no better; those after them are not tried.

The weaker a penalty, the longer its fit takes; validation is taken to have one peak along the grid.
"""

HELD_OUT = 0.2
"""Share of each class's training images that choose the penalty where no others are given."""


class LinearProbe:
    """Logistic regression on the features of the joint space (Radford et al. 2021, section 3.2).

    The penalty, of half the squared weights beside the mean cross-entropy, is chosen by top-1 on
    validation images from a grid, and the classifier then fitted to all training images with it.

    Args:
        train: a data set, or what `load_data` takes, with labels, to fit on.
        data: likewise, to score on; its labels must all occur in `train`.
        validation: likewise, to choose the penalty on; a fifth of each class of `train` if `None`.
        penalties: the grid, descending.
        features: "joint", of the joint space, or "tower", what the image tower gives before the
            projection, L2-normalised: what contrast of views teaches shows there
            (https://arxiv.org/abs/2002.05709, section 4.2).
        seed: of which training images are held out for the choice.
    """

    def __init__(
        self,
        *,
        train: str | Dataset,
        data: str | Dataset,
        validation: str | Dataset | None = None,
        penalties: tuple[float, ...] = PENALTIES,
        features: Literal["joint", "tower"] = "joint",
        seed: int = 0,
    ) -> None:
        """Keep the settings; the data is read on first use."""
        if not penalties or not all(math.isfinite(some) and some > 0 for some in penalties):
            raise ConfigError(f"penalties: {list(penalties)} are not all numbers above 0")
        self.train = train
        self.data = data
        self.validation = validation
        self.penalties = tuple(sorted(penalties, reverse=True))
        self.features = features
        self.seed = seed

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        """Score a model.

        Returns:
            `top1`, `top5` and `mean_class_recall` as shares in [0, 1], each with the ends of its
            95 % bootstrap interval over test images (`top1_low`, `top1_high`); `ece`, the expected
            calibration error; the `penalty` chosen, and the number of `classes`.

        Raises:
            DataError: labels are missing, fewer than two classes are left, a label to be scored or
                chosen on does not occur in `train`, or nothing can be held out.
        """
        return self.details(model, encoder).metrics

    def details(self, model: DualEncoder, encoder: Encoder | None = None) -> ClassificationDetails:
        """Score a model, and return besides what is behind it: classes and images.

        Raises:
            DataError: as a call does.
        """
        encoder = encoder or DirectEncoder()
        model = model if self.features == "joint" else unprojected(model)
        self.train, self.data = train, data = load_data(self.train), load_data(self.data)
        features, labelled = _read(encoder, model, train)
        names = tuple(sorted(set(labelled.labels)))
        if len(names) < 2:
            raise DataError(f"{train.name}: a linear probe needs two classes; it has {len(names)}")
        labels = labelled.numbers(names)
        if self.validation is not None:
            self.validation = load_data(self.validation)
            others = _known(encoder, model, self.validation, names, train)
            penalty = self._choose((features, labels), others[:2], len(names))
        else:
            held = held_out(labels, self.seed)
            if not bool(held.any()):
                raise DataError(
                    f"{train.name}: no class has two images, so that none can choose the penalty:"
                    " give validation data"
                )
            parts = [(features[some], labels[some]) for some in (~held, held)]
            penalty = self._choose(parts[0], parts[1], len(names))
        test, right, ids = _known(encoder, model, data, names, train)
        weights, bias = fit_linear_head(features, labels, len(names), penalty=penalty)
        answers = answer(test, right, lambda chunk: chunk @ weights.T + bias)
        metrics = {**answers.metrics(), "penalty": penalty, "classes": float(len(names))}
        return ClassificationDetails(metrics, names, ids, answers)

    def _choose(
        self, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], classes: int
    ) -> float:
        """Return the penalty that is best on validation images.

        By top-1, of equal ones by cross-entropy: the grid from the strongest on, each fit begun
        where the last one ended, until `PATIENCE` of them are no better than the best; then half a
        step to either side of the best.
        """
        scored: dict[float, tuple[float, float]] = {}
        fitted: dict[float, Head] = {}

        def score(penalty: float, begin: Head | None) -> None:
            head = fitted[penalty] = fit_linear_head(*train, classes, penalty=penalty, begin=begin)
            logits = validation[0] @ head[0].T + head[1]
            right = (logits.argmax(1) == validation[1]).double().mean().item()
            loss = torch.nn.functional.cross_entropy(logits, validation[1]).item()
            scored[penalty] = (right, -loss)

        def best() -> float:
            return max(scored, key=lambda penalty: scored[penalty])

        last: Head | None = None
        for at, penalty in enumerate(self.penalties):
            if scored and at - self.penalties.index(best()) > PATIENCE:
                break
            score(penalty, last)
            last = fitted[penalty]
        middle = best()
        for other in neighbours(self.penalties, middle):
            score(math.sqrt(middle * other), fitted[middle])
        return best()


def unprojected(model: DualEncoder) -> DualEncoder:
    """Return a model of the same towers whose image features are what the tower gives.

    The model that is given stays as it is; both share their towers.
    """
    bare = copy.copy(model)
    bare._modules = {**model._modules, "image_projection": nn.Identity()}
    return bare


def neighbours(grid: Sequence[float], value: float) -> list[float]:
    """Return what stands before and after a value in a grid."""
    at = list(grid).index(value)
    return [grid[near] for near in (at - 1, at + 1) if 0 <= near < len(grid)]


def held_out(labels: Int[Tensor, " images"], seed: int) -> Tensor:
    """Choose a fifth of each class, one image at least, but never the only one.

    Args:
        labels: of the training images.
        seed: decides which.

    Returns:
        Whether each image is held out.
    """
    rng = np.random.default_rng(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        places = (labels == label).nonzero()[:, 0]
        count = max(1, round(HELD_OUT * len(places))) if len(places) > 1 else 0
        held[places[torch.from_numpy(rng.permutation(len(places))[:count])]] = True
    return held


def _read(
    encoder: Encoder, model: DualEncoder, data: Dataset
) -> tuple[Float[Tensor, "images dim"], Labelled]:
    """Return the features of images that have a label."""
    features, rows = encoder.images(model, data)
    labelled = Labelled.of(data, rows)
    if not labelled.places:
        raise DataError(f"{data.name}: a linear probe needs labels, and its rows have none")
    return features[labelled.places].cpu(), labelled


def _known(
    encoder: Encoder, model: DualEncoder, data: Dataset, names: tuple[str, ...], train: Dataset
) -> tuple[Float[Tensor, "images dim"], Int[Tensor, " images"], list[str]]:
    """Return features, labels and ids of images whose labels the training data has.

    Raises:
        DataError: one is missing there.
    """
    features, labelled = _read(encoder, model, data)
    unknown = sorted(set(labelled.labels) - set(names))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"{data.name}: label {unknown[0]!r}{more} has no image in {train.name}, so that no"
            " classifier can be fitted to it"
        )
    return features, labelled.numbers(names), labelled.ids
