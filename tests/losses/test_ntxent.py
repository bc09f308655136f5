"""The loss against a slow loop written from the paper."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.losses import Duplicates, NTXentLoss, Positives, SupConLoss
from tests.losses.pairs import (
    BATCH,
    CHUNK_SIZES,
    IMAGES,
    MODES,
    assert_equal,
    inputs,
    is_left_out,
    is_positive,
    outcome,
    positives,
)


def slow_loss(mode: Duplicates, first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Mean over all views of minus the mean log softmax of their positives, one at a time."""
    views = [(image, feature) for side in (first, second) for image, feature in enumerate(side)]
    total = torch.zeros_like(scale)
    for i, (image, feature) in enumerate(views):
        logits, right = [], []
        for k, (other, another) in enumerate(views):
            if k == i or is_left_out(mode, image, other):
                continue
            logits.append(scale * (feature * another).sum())
            if is_positive(mode, image, other):
                right.append(logits[-1])
        denominator = torch.stack(logits).exp().sum().log()
        total = total - torch.stack(right).mean() + denominator
    return total / len(views)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [*CHUNK_SIZES, BATCH + 3])
def test_value_and_gradients_equal_the_slow_loop(mode: Duplicates, chunk_size: int) -> None:
    loss = NTXentLoss(chunk_size=chunk_size)
    assert_equal(
        outcome(lambda *x: loss(*x, None, positives(mode)), inputs()[:3]),
        outcome(lambda *x: slow_loss(mode, *x), inputs()[:3]),
    )


def test_without_positives_each_image_is_only_itself() -> None:
    given = inputs()
    assert NTXentLoss()(*given) == NTXentLoss()(*given, positives("ignore"))


def test_equal_images_as_positives_are_what_supcon_does_with_labels() -> None:
    keys, given = torch.tensor(IMAGES), inputs()[:3]
    assert_equal(
        outcome(lambda *x: NTXentLoss()(*x, None, Positives(keys, keys)), given),
        outcome(lambda *x: SupConLoss()(*x, None, keys), given),
    )


def test_uniform_features_give_the_log_of_what_is_compared() -> None:
    same = torch.ones(8, 4) / 2
    loss = NTXentLoss(temperature=0.1)(same, same, torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(15), rel=1e-6)


def test_a_single_image_has_nothing_to_learn() -> None:
    first, second, scale, _ = inputs()
    found = outcome(NTXentLoss(), (first[:1], second[:1], scale))
    assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_extreme_cosines_at_scale_100_are_finite_and_right(mode: Duplicates) -> None:
    first, scale = normalize(inputs()[0].detach(), dim=1), torch.tensor(100.0)
    for second in (first, -first, first.flip(0)):  # as good, and as bad, as can be
        given = (first.float(), second.float(), scale)
        found = outcome(lambda *x: NTXentLoss(chunk_size=3)(*x, None, positives(mode)), given)
        exact = outcome(lambda *x: slow_loss(mode, *x), tuple(x.double() for x in given))
        assert all(x.isfinite().all() for x in found)
        assert_equal(tuple(x.double() for x in found), exact, tolerance=1e-4)
