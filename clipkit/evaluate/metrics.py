"""Metrics: tensors in, floats out. Accuracies and recalls are shares in [0, 1]."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def recall_at(ranks: Int[Tensor, " queries"], k: int) -> float:
    """Return the share of queries whose best match is among the first k."""
    return (ranks < k).double().mean().item()


def median_rank(ranks: Int[Tensor, " queries"]) -> float:
    """Return the median of ranks, told from 1; of an even number, the mean of the middle two."""
    ordered = ranks.sort().values
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]
    return middle.double().mean().item() + 1


def mean_rank(ranks: Int[Tensor, " queries"]) -> float:
    """Return the mean of ranks, told from 1."""
    return ranks.double().mean().item() + 1


def mean_class_recall(labels: Int[Tensor, " images"], right: Bool[Tensor, " images"]) -> float:
    """Return the mean over classes of the share of their images that is classified right.

    Classes without images do not count.
    """
    _, place = labels.unique(return_inverse=True)
    hits = torch.bincount(place, right.double())
    return (hits / torch.bincount(place)).mean().item()
