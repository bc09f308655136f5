"""The loss against a slow loop written from the paper."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.errors import ConfigError
from clipkit.losses import NTXentLoss, SupConLoss
from tests.losses.cases import LABELS, labels
from tests.losses.pairs import BATCH, CHUNK_SIZES, assert_equal, inputs, outcome


def slow_loss(views: list[Tensor], scale: Tensor) -> Tensor:
    """L_out: the sum over positives outside the logarithm, one anchor at a time."""
    rows = [(image, feature) for view in views for image, feature in enumerate(view)]
    losses = []
    for i, (image, feature) in enumerate(rows):
        others = [k for k in range(len(rows)) if k != i]
        logits = {k: scale * (feature * rows[k][1]).sum() for k in others}
        denominator = torch.stack([torch.exp(logit) for logit in logits.values()]).sum()
        right = [
            k for k in others if rows[k][0] == image or LABELS[rows[k][0]] == LABELS[image] != -1
        ]
        if right:
            terms = [torch.log(torch.exp(logits[k]) / denominator) for k in right]
            losses.append(-torch.stack(terms).sum() / len(right))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_two_views_equal_the_slow_loop(chunk_size: int) -> None:
    loss = SupConLoss(chunk_size=chunk_size)
    assert_equal(
        outcome(lambda *x: loss(*x, None, labels()), inputs()[:3]),
        outcome(lambda *x: slow_loss([x[0], x[1]], x[2]), inputs()[:3]),
    )


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_one_view_equals_the_slow_loop(chunk_size: int) -> None:
    first, _, scale, _ = inputs()
    loss = SupConLoss(chunk_size=chunk_size)
    assert_equal(
        outcome(lambda x, s: loss(x, None, s, None, labels()), (first, scale)),
        outcome(lambda x, s: slow_loss([x], s), (first, scale)),
    )


@pytest.mark.parametrize("given", [None, [-1] * BATCH, list(range(BATCH, 2 * BATCH))])
def test_two_views_with_no_two_labels_equal_are_ntxent(given: list[int] | None) -> None:
    told = None if given is None else torch.tensor(given)
    assert_equal(
        outcome(lambda *x: SupConLoss(chunk_size=3)(*x, None, told), inputs()[:3]),
        outcome(NTXentLoss(chunk_size=5), inputs()[:3]),
    )


@pytest.mark.parametrize("rows", [1, BATCH])
def test_one_view_with_no_two_labels_equal_has_nothing_to_learn(rows: int) -> None:
    first, _, scale, _ = inputs()
    found = outcome(
        lambda x, s: SupConLoss()(x, None, s, None, torch.arange(rows)), (first[:rows], scale)
    )
    assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=0)


def test_neither_a_second_view_nor_a_label_is_refused() -> None:
    first, _, scale, _ = inputs()
    with pytest.raises(ConfigError, match="needs labels"):
        SupConLoss()(first, None, scale)


def test_extreme_cosines_at_scale_100_are_finite_and_right() -> None:
    first, scale = normalize(inputs()[0].detach(), dim=1), torch.tensor(100.0)
    for second in (first, -first):
        given = (first.float(), second.float(), scale)
        found = outcome(lambda *x: SupConLoss(chunk_size=3)(*x, None, labels()), given)
        high = tuple(x.double() for x in given)
        exact = outcome(lambda *x: slow_loss([x[0], x[1]], x[2]), high)
        assert all(x.isfinite().all() for x in found)
        assert_equal(tuple(x.double() for x in found), exact, tolerance=1e-4)
