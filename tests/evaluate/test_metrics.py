"""Metrics against loops over plain lists."""

import pytest
import torch
from torch import Tensor

from clipkit.evaluate import metrics
from clipkit.evaluate.metrics import match_ranks, mean_class_recall, recall_at, top_k_accuracy


def slow_ranks(queries: Tensor, gallery: Tensor, matches: list[tuple[int, int]]) -> list[int]:
    ranks = []
    for i, query in enumerate(queries):
        mine = [j for q, j in matches if q == i]
        scores = [float(query @ row) for row in gallery]
        best = max(scores[j] for j in mine)
        ranks.append(sum(s >= best for j, s in enumerate(scores) if j not in mine))
    return ranks


@pytest.mark.parametrize("chunk", [2, 1024])
def test_ranks_equal_the_slow_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    torch.manual_seed(0)
    queries, gallery = torch.randn(7, 4), torch.randn(9, 4)
    matches = [(q, int(j)) for q in range(7) for j in torch.randperm(9)[: 1 + q % 3]]
    ranks = match_ranks(queries, gallery, torch.tensor(matches))
    assert ranks.tolist() == slow_ranks(queries, gallery, matches)


def test_a_model_that_cannot_tell_ranks_last() -> None:
    ranks = match_ranks(torch.ones(3, 2), torch.ones(5, 2), torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert ranks.tolist() == [4, 4, 4]


def test_recall_and_accuracy() -> None:
    assert recall_at(torch.tensor([0, 1, 4, 9]), 5) == 0.75
    logits = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    labels = torch.tensor([0, 2, 1, 2])
    assert top_k_accuracy(logits, labels, 1) == 0.5
    assert top_k_accuracy(logits, labels, 2) == 1.0
    assert top_k_accuracy(logits, labels, 50) == 1.0
    assert mean_class_recall(logits, labels) == pytest.approx((1 + 0 + 0.5) / 3)
