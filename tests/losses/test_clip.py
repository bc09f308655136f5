"""The loss against a slow loop written from the papers."""

import math

import pytest
import torch
from torch import Tensor

from clipkit.losses import ClipLoss


def slow_loss(image: Tensor, text: Tensor, scale: Tensor, positives: Tensor) -> Tensor:
    """Mean over both directions of -sum over positives of log softmax, one pair at a time."""
    n = len(image)
    total = torch.zeros((), dtype=image.dtype)
    for queries, keys, mask in ((image, text, positives), (text, image, positives.T)):
        for i in range(n):
            logits = [scale * (queries[i] * keys[j]).sum() for j in range(n)]
            denominator = torch.stack(logits).exp().sum().log()
            right = [j for j in range(n) if mask[i, j]]
            total = total - sum(logits[j] - denominator for j in right) / len(right) / (2 * n)
    return total


def features(seed: int, n: int = 6, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)


@pytest.mark.parametrize("duplicates", [False, True])
def test_value_and_gradient_equal_the_slow_loop(duplicates: bool) -> None:
    positives = torch.eye(6, dtype=torch.bool)
    if duplicates:
        positives[0, 3] = positives[3, 0] = positives[1, 2] = positives[2, 1] = True
    results = []
    for loss in (ClipLoss(), None):
        image, text = features(1).requires_grad_(), features(2).requires_grad_()
        scale = torch.tensor(7.0, requires_grad=True)
        value = (
            loss(image, text, scale, None, positives)
            if loss
            else slow_loss(image, text, scale, positives)
        )
        value.backward()
        results.append((value.detach(), image.grad, text.grad, scale.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_without_positives_the_diagonal_is_meant() -> None:
    image, text, scale = features(1), features(2), torch.tensor(3.0)
    diagonal = torch.eye(6, dtype=torch.bool)
    assert ClipLoss()(image, text, scale) == ClipLoss()(image, text, scale, None, diagonal)


def test_uniform_features_give_log_batch() -> None:
    same = torch.ones(8, 4) / 2
    assert ClipLoss()(same, same, torch.tensor(9.0)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_float32_inside_half_precision() -> None:
    image, text = features(1), features(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = ClipLoss()(image, text, torch.tensor(50.0))
    assert low.dtype == torch.float32
    assert low == ClipLoss()(image, text, torch.tensor(50.0))


def test_label_smoothing_mixes_in_the_uniform_target() -> None:
    image, text, scale = features(1), features(2), torch.tensor(5.0)
    hard = ClipLoss()(image, text, scale)
    smooth = ClipLoss(label_smoothing=0.1)(image, text, scale)
    logits = scale * image @ text.T
    uniform = -(logits.log_softmax(1).mean() + logits.T.log_softmax(1).mean()) / 2
    torch.testing.assert_close(smooth, 0.9 * hard + 0.1 * uniform)
