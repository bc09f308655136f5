"""The loss against a slow loop written from the paper."""

import pytest
import torch
from torch import Tensor

from clipkit.losses import DistillLoss
from tests.losses.pairs import BATCH, CHUNK_SIZES, assert_equal, inputs, on_ranks, outcome


def teacher() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    image, text = torch.randn(2, BATCH, 3, generator=generator, dtype=torch.float64)
    return image, text, torch.tensor(2.0, dtype=torch.float64)


def slow_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Mean of both directions' cross-entropy from the teacher's softmax, one pair at a time."""
    t_image, t_text, t_scale = teacher()
    total = torch.zeros_like(scale)
    for queries, keys, t_queries, t_keys in (
        (image, text, t_image, t_text),
        (text, image, t_text, t_image),
    ):
        for i in range(BATCH):
            logits = torch.stack([scale * (queries[i] * key).sum() for key in keys])
            t_logits = torch.stack([t_scale * (t_queries[i] * key).sum() for key in t_keys])
            wanted = t_logits.exp() / t_logits.exp().sum()
            for j in range(BATCH):
                total = total - wanted[j] * (logits[j] - logits.exp().sum().log())
    return total / (2 * BATCH)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_value_and_gradients_equal_the_slow_loop(chunk_size: int) -> None:
    loss, given = DistillLoss(chunk_size=chunk_size), inputs()[:3]
    assert_equal(outcome(lambda *x: loss(*x, *teacher()), given), outcome(slow_loss, given))


@pytest.mark.parametrize("count", [2, 3, BATCH + 2])
def test_ranks_together_give_each_the_whole(count: int) -> None:
    loss, given = DistillLoss(chunk_size=2), inputs()[:3]
    whole = outcome(lambda *x: loss(*x, *teacher()), given)
    parts = on_ranks(
        count, lambda share: outcome(lambda *x: loss(*x, *teacher(), share=share), given)
    )
    for part in parts:
        assert_equal(part, whole)


def test_the_teacher_itself_has_no_gradient_left() -> None:
    image, text, scale = teacher()
    found = outcome(lambda *x: DistillLoss(chunk_size=3)(*x, *teacher()), (image, text, scale))
    assert found[0] > 0
    assert_equal(found[1:], tuple(map(torch.zeros_like, found[1:])), tolerance=1e-12)


def test_no_gradient_reaches_the_teacher() -> None:
    given = [x.requires_grad_() for x in teacher()]
    DistillLoss()(*inputs()[:3], *given).backward()
    assert all(x.grad is None for x in given)


def test_float32_inside_half_precision() -> None:
    given = tuple(x.detach() for x in inputs(torch.float32)[:3])
    found = []
    for low in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            found.append(outcome(lambda *x: DistillLoss()(*x, *teacher()), given))
    assert found[0][0].dtype == torch.float32
    assert_equal(found[0], found[1], tolerance=0)
