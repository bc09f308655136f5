"""Metrics against numbers worked out by hand."""

import pytest
import torch

from clipkit.evaluate.metrics import mean_class_recall, mean_rank, median_rank, recall_at


def test_recall_and_ranks() -> None:
    ranks = torch.tensor([9, 0, 4, 1])
    assert recall_at(ranks, 5) == 0.75
    assert median_rank(ranks) == 3.5  # of ranks 1, 2, 5, 10 as people count
    assert median_rank(ranks[:3]) == 5
    assert mean_rank(ranks) == 4.5


def test_classes_count_alike_and_those_without_images_do_not() -> None:
    labels = torch.tensor([0, 4, 1, 4])
    right = torch.tensor([True, False, False, True])
    assert mean_class_recall(labels, right) == pytest.approx((1 + 0 + 0.5) / 3)
