"""Calibration: whether a classifier is right as often as it is sure."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipkit.errors import ConfigError


def expected_calibration_error(
    probabilities: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    *,
    bins: int = 15,
) -> float:
    """Return the expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The confidence of an answer is the probability of its label, the likeliest. Answers of like
    confidence fall into one bin; the error is the mean over all answers of how far their bin's
    share of right answers lies from its mean confidence.

    Args:
        probabilities: of each label, each in [0, 1]. Rows need not sum to 1: for a sigmoid model
            they are the labels' own probabilities.
        labels: the right ones, as columns of `probabilities`.
        bins: of equal width, from above 0 to 1 inclusive.

    Returns:
        A share in [0, 1].

    Raises:
        ConfigError: there is no image, or `bins` is below 1.

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    0.0
    """
    if not len(labels):
        raise ConfigError("a calibration error needs an image at least; there is none")
    confidence, predicted = probabilities.max(1)
    return calibration_error(confidence, predicted == labels, bins=bins)


def calibration_error(
    confidence: Float[Tensor, " images"], right: Bool[Tensor, " images"], *, bins: int = 15
) -> float:
    """Return the same of answers whose probabilities nobody kept.

    Args:
        confidence: probability of the label that was answered.
        right: whether that was the right one.
        bins: of equal width.

    Raises:
        ConfigError: there is no image, or `bins` is below 1.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, not {bins}")
    if not len(confidence):
        raise ConfigError("a calibration error needs an image at least; there is none")
    confidence = confidence.double()
    inner = torch.arange(1, bins, device=confidence.device).double() / bins
    # Each bin takes its upper edge, as in the paper, and the first one 0 besides.
    place = torch.bucketize(confidence, inner)
    gap = confidence.new_zeros(bins).index_add(0, place, right.double() - confidence)
    return float(gap.abs().sum() / len(confidence))
