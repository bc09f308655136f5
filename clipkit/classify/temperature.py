"""Probabilities that mean what they say: a temperature, and a threshold for none of the labels."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipkit.classify.calibration import expected_calibration_error
from clipkit.models.dual_encoder import Similarity

FOLDS = 5
BOUNDS = (0.02, 50.0)
"""Temperatures that are searched: of images that are all named right, the lowest is the best."""


@dataclass(frozen=True, slots=True)
class Temperature:
    """What makes calibrated logits of a head's: `logits / value + shift`.

    Attributes:
        value: above 1 for a head that is surer than it is right.
        shift: of a sigmoid's logits; 0 for a softmax, where it would change nothing.
    """

    value: float = 1.0
    shift: float = 0.0

    def __call__(self, logits: Float[Tensor, "images classes"]) -> Float[Tensor, "images classes"]:
        """Return calibrated logits."""
        return logits / self.value + self.shift


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        temperature: of the logits.
        threshold: probability below which an image is none of the labels; `None` where that was not
            asked for.
        images: how many it was fitted on.
        ece_before: expected calibration error with the model's own scale (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599), a share in [0, 1].
        ece_after: the same, each fifth of the images by the temperature of the others.
    """

    temperature: Temperature
    threshold: float | None
    images: int
    ece_before: float
    ece_after: float


def probabilities(
    logits: Float[Tensor, "images classes"], similarity: Similarity
) -> Float[Tensor, "images classes"]:
    """Return a distribution over the labels, or the probability of each label by itself."""
    return logits.softmax(1) if similarity == "softmax" else logits.sigmoid()


def fit_temperature(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    similarity: Similarity,
) -> Temperature:
    """Return the temperature of the highest likelihood (Guo et al. 2017, section 4.2).

    For a sigmoid, temperature and shift (Platt 1999): each label is a question of its own, whose
    answer is yes for the image's label.
    """
    logits = logits.double()
    if similarity == "softmax":
        # Convex in the inverse, so that there is one minimum: two thirds are kept each time.
        low, high = np.log(BOUNDS[0]), np.log(BOUNDS[1])
        for _ in range(60):
            third = (high - low) / 3
            if _cross_entropy(logits, labels, low + third) < _cross_entropy(
                logits, labels, high - third
            ):
                high -= third
            else:
                low += third
        return Temperature(float(np.exp((low + high) / 2)))
    yes = torch.nn.functional.one_hot(labels, logits.shape[1]).double()
    log_inverse, shift = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in "ab")
    optimizer = torch.optim.LBFGS([log_inverse, shift], max_iter=200, line_search_fn="strong_wolfe")
    bound = float(np.log(BOUNDS[1]))

    def loss() -> Tensor:
        optimizer.zero_grad()
        scaled = log_inverse.clamp(-bound, bound).exp() * logits + shift
        value = torch.nn.functional.binary_cross_entropy_with_logits(scaled, yes)
        value.backward()
        return value

    optimizer.step(loss)
    inverse = float(log_inverse.detach().clamp(-bound, bound).exp())
    return Temperature(1 / inverse, float(shift.detach()))


def _cross_entropy(logits: Tensor, labels: Tensor, log_temperature: float) -> float:
    scaled = logits / float(np.exp(log_temperature))
    return float(torch.nn.functional.cross_entropy(scaled, labels))


def fit_threshold(confidence: Float[Tensor, " images"], known: Bool[Tensor, " images"]) -> float:
    """Return the threshold that tells images of the labels from others best.

    It maximises the mean of the share of the labels' images at or above it and the share of the
    others below it (Youden 1950), and lies half-way between the two values next to it.

    Args:
        confidence: the highest probability of each image.
        known: whether the image is of one of the labels; both occur.
    """
    values, order = confidence.double().sort()
    right = known[order].double()
    above = right.flip(0).cumsum(0).flip(0) / right.sum()
    below = torch.cat([right.new_zeros(1), (1 - right).cumsum(0)[:-1]]) / (1 - right).sum()
    score = above + below
    first = torch.cat([torch.tensor([True]), values[1:] > values[:-1]])  # cuts between equals: no
    at = int(score.masked_fill(~first, -1).argmax())
    lower = float(values[at - 1]) if at else float(values[0])
    return (lower + float(values[at])) / 2


def calibrate_head(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    similarity: Similarity,
) -> Calibration:
    """Fit a temperature, and say what it mends.

    Args:
        logits: of images that the head was not fitted on.
        labels: their columns.
        similarity: what the logits mean.
    """
    temperature = fit_temperature(logits, labels, similarity)
    held_out = torch.empty_like(logits, dtype=torch.float64)
    fold = torch.from_numpy(np.random.default_rng(0).permutation(len(labels))) % FOLDS
    for at in range(FOLDS):
        inside = fold == at
        if bool((~inside).any()):
            made = fit_temperature(logits[~inside], labels[~inside], similarity)
            held_out[inside] = made(logits[inside].double())
        else:
            held_out[inside] = temperature(logits[inside].double())
    before = expected_calibration_error(probabilities(logits, similarity), labels)
    after = expected_calibration_error(probabilities(held_out, similarity), labels)
    return Calibration(temperature, None, len(labels), before, after)
