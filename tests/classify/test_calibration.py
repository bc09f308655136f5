"""Calibration against a loop written from the paper."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipkit.classify.calibration import calibration_error, expected_calibration_error
from clipkit.errors import ConfigError


def slow_error(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """Equations 2 and 3 of Guo et al. 2017."""
    confidences = [float(row.max()) for row in probabilities.double()]
    right = [
        int(row.argmax()) == int(label) for row, label in zip(probabilities, labels, strict=True)
    ]
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidences) if (m - 1) / bins < c <= m / bins]
        if inside:
            accuracy = np.mean([right[i] for i in inside])
            total += (
                len(inside) / len(labels) * abs(accuracy - np.mean(np.take(confidences, inside)))
            )
    return float(total)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_is_the_papers(bins: int) -> None:
    torch.manual_seed(0)
    probabilities = (2 * torch.randn(300, 4)).softmax(1)
    probabilities[:20] = torch.tensor([0.6, 0.2, 0.1, 0.1])  # on the edge of two bins of 10 and 15
    labels = torch.randint(4, (300,))
    expected = slow_error(probabilities, labels, bins)
    assert expected > 0.05
    found = expected_calibration_error(probabilities, labels, bins=bins)
    assert found == pytest.approx(expected, abs=1e-9)


def test_certain_answers() -> None:
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1
    never = torch.zeros(2, 3)
    assert expected_calibration_error(never, torch.tensor([1, 2])) == 0


def test_own_probabilities_need_not_sum_to_one() -> None:
    own = torch.tensor([[0.5, 0.25], [0.25, 0.5]])
    assert expected_calibration_error(own, torch.tensor([0, 1])) == pytest.approx(0.5)
    right = torch.tensor([True, True])
    assert calibration_error(torch.tensor([0.5, 0.5]), right) == pytest.approx(0.5)


def test_nothing_and_no_bins() -> None:
    with pytest.raises(ConfigError, match="there is none"):
        expected_calibration_error(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        expected_calibration_error(torch.eye(2), torch.tensor([0, 1]), bins=0)
