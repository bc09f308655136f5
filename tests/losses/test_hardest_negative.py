"""The loss against a slow loop written from the paper."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.losses import Duplicates, HardestNegativeLoss, Positives
from tests.losses.pairs import (
    BATCH,
    CHUNK_SIZES,
    MODES,
    alike,
    assert_equal,
    inputs,
    is_positive,
    outcome,
    positives,
)


def slow_loss(mode: Duplicates, margin: float, image: Tensor, text: Tensor) -> Tensor:
    """Sum of both directions' hinges with the hardest negative, one pair at a time."""
    total = image.new_zeros(())
    for queries, keys in ((image, text), (text, image)):
        for i in range(BATCH):
            negatives = [
                queries[i] @ keys[j]
                for j in range(BATCH)
                if j != i and (mode == "ignore" or not alike(i, j))
            ]
            right = [queries[i] @ keys[j] for j in range(BATCH) if is_positive(mode, i, j)]
            for cosine in right:
                hinge = margin - cosine + max(negatives)
                total = total + hinge.clamp(min=0) / len(right)
    return total / BATCH


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("margin", [0.2, 3.0])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_value_and_gradients_equal_the_slow_loop(
    mode: Duplicates, margin: float, chunk_size: int
) -> None:
    given = inputs()[:2]
    scale = torch.tensor(3.0)
    loss = HardestNegativeLoss(margin=margin, chunk_size=chunk_size)
    assert_equal(
        outcome(lambda *x: loss(*x, scale, None, positives(mode)), given),
        outcome(lambda *x: slow_loss(mode, margin, *x), given),
    )


def test_without_positives_the_diagonal_is_meant() -> None:
    given = inputs()
    assert HardestNegativeLoss()(*given) == HardestNegativeLoss()(*given, positives("ignore"))


@pytest.mark.parametrize("mode", ["positive", "mask"])
def test_without_negatives_there_is_nothing_to_learn(mode: Duplicates) -> None:
    same = torch.zeros(BATCH, dtype=torch.long)
    found = outcome(
        lambda *x: HardestNegativeLoss()(*x, None, Positives(same, same, mode)), inputs()[:3]
    )
    assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=0)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_of_equally_hard_negatives_the_first_is_taken(chunk_size: int) -> None:
    # All texts but the first are one and the same, in numbers that floats hold exactly.
    image, text = torch.zeros(4, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    image[0, 0] = 1
    text.requires_grad_()
    loss = HardestNegativeLoss(margin=0.5, chunk_size=chunk_size)
    loss(image, text, torch.tensor(1.0)).backward()
    # Only image 0 is not zero, and only what meets it gets a gradient. As a query it pulls text 0
    # and pushes text 1, the first of three; as a key it is text 0's own, and the hardest negative
    # of each other text.
    expected = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0]]) / 4
    torch.testing.assert_close(text.grad, expected)


def test_extreme_features_are_finite() -> None:
    image = normalize(inputs(torch.float32)[0].detach(), dim=1)
    for text in (image, -image, 1e4 * image):
        scale = torch.tensor(100.0)
        found = outcome(HardestNegativeLoss(chunk_size=3), (image, text, scale))
        assert all(x.isfinite().all() for x in found)
        exact = outcome(lambda *x: slow_loss("ignore", 0.2, *x), (image.double(), text.double()))
        assert_equal(tuple(x.double() for x in found[:3]), exact, tolerance=1e-4)
