"""The bootstrap by numbers of each kind against one that draws rows."""

import numpy as np
import pytest
import torch

from clipkit.evaluate.bootstrap import (
    RESAMPLES,
    interval,
    resampled_class_recall,
    resampled_ratios,
    with_interval,
)

SLOW = 4000


def test_ratios_are_distributed_as_if_rows_were_drawn() -> None:
    rng = np.random.default_rng(1)
    hits = rng.integers(0, 4, (60, 2)).astype(float)
    of = hits + rng.integers(1, 3, (60, 2))
    samples = resampled_ratios(torch.from_numpy(hits), torch.from_numpy(of))
    assert samples.shape == (RESAMPLES, 2)
    rows = rng.integers(60, size=(SLOW, 60))
    slow = hits[rows].sum(1) / of[rows].sum(1)
    for column in range(2):
        found, expected = samples[:, column].numpy(), slow[:, column]
        ends = np.quantile(expected, [0.025, 0.975])
        assert interval(samples[:, column]) == pytest.approx(tuple(ends), abs=0.01)
        assert found.mean() == pytest.approx(expected.mean(), abs=0.003)
    together = np.corrcoef(samples.numpy().T)[0, 1]
    assert together == pytest.approx(np.corrcoef(slow.T)[0, 1], abs=0.06)


def test_class_recall_is_distributed_as_if_images_were_drawn() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 3, 7], [40, 10, 2])
    right = rng.random(52) < 0.6
    samples = resampled_class_recall(torch.from_numpy(labels), torch.from_numpy(right))
    slow = []
    for rows in rng.integers(52, size=(SLOW, 52)):
        told, hit = labels[rows], right[rows]
        slow.append(np.mean([hit[told == label].mean() for label in np.unique(told)]))
    assert interval(samples) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)
    assert float(samples.mean()) == pytest.approx(np.mean(slow), abs=0.015)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        hits = torch.from_numpy(rng.random((150, 1)) < 0.3).double()
        low, high = interval(resampled_ratios(hits, torch.ones_like(hits))[:, 0])
        held += low <= 0.3 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_the_same_rows_give_the_same_interval_in_any_order() -> None:
    hits = (torch.rand(50, 1) < 0.5).double()
    ones = torch.ones_like(hits)
    first = resampled_ratios(hits, ones)
    assert torch.equal(first, resampled_ratios(hits[torch.randperm(50)], ones))
    assert with_interval("x", 1.0, torch.ones(10)) == {"x": 1.0, "x_low": 1.0, "x_high": 1.0}
