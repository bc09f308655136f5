"""The loss against a slow loop written from the paper."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, softplus

from clipkit.errors import ConfigError
from clipkit.losses import Duplicates, SigLipLoss
from clipkit.losses.siglip import _softplus
from tests.losses.pairs import (
    BATCH,
    CHUNK_SIZES,
    MODES,
    assert_equal,
    inputs,
    is_left_out,
    is_positive,
    on_ranks,
    outcome,
    positives,
)


def slow_loss(mode: Duplicates, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """-1/batch * sum of log sigmoid(z * logit), one pair at a time."""
    total = torch.zeros_like(scale)
    for i in range(BATCH):
        for j in range(BATCH):
            if not is_left_out(mode, i, j):
                z = 1 if is_positive(mode, i, j) else -1
                total = total - logsigmoid(z * (scale * (image[i] * text[j]).sum() + bias))
    return total / BATCH


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_value_and_gradients_equal_the_slow_loop(mode: Duplicates, chunk_size: int) -> None:
    loss = SigLipLoss(chunk_size=chunk_size)
    assert_equal(
        outcome(lambda *given: loss(*given, positives(mode)), inputs()),
        outcome(lambda *given: slow_loss(mode, *given), inputs()),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3, BATCH + 2])
def test_ranks_together_give_each_the_whole(mode: Duplicates, count: int) -> None:
    loss = SigLipLoss(chunk_size=2)
    whole = outcome(lambda *given: loss(*given, positives(mode)), inputs())
    parts = on_ranks(
        count,
        lambda share: outcome(lambda *given: loss(*given, positives(mode), share=share), inputs()),
    )
    for part in parts:
        assert_equal(part, whole)


def test_without_positives_the_diagonal_is_meant() -> None:
    given = inputs()
    assert SigLipLoss()(*given) == SigLipLoss()(*given, positives("ignore"))


def test_extreme_cosines_at_scale_100_are_finite_and_right() -> None:
    image = normalize(inputs()[0].detach(), dim=1)
    for text in (image, -image):
        given = (image, text, torch.tensor(100.0), torch.tensor(-10.0))
        found = outcome(SigLipLoss(chunk_size=3), tuple(x.float() for x in given))
        high = tuple(x.double() for x in given)
        expected = outcome(lambda *x: slow_loss("ignore", *x), high)
        assert_equal(tuple(x.double() for x in found), expected, tolerance=1e-5)


@pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("offset", [-30.0, -10.0, 0.0, 15.0, 100.0])
def test_joined_terms_lose_nothing(width: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, width, generator=generator) + offset
    expected = softplus(values.double(), threshold=1000).sum()
    found = _softplus(values, torch.empty_like(values))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_what_is_left_out_counts_nothing() -> None:
    values = torch.full((1, 5), -torch.inf)
    assert _softplus(values, torch.empty_like(values)) == 0


def test_float32_inside_half_precision() -> None:
    given = tuple(x.detach() for x in inputs(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outcome(SigLipLoss(), given)
    assert_equal(found, outcome(SigLipLoss(), given), tolerance=0)


def test_a_model_without_a_bias_is_refused() -> None:
    image, text, scale, _ = inputs()
    with pytest.raises(ConfigError, match="siglip needs a model with a logit bias"):
        SigLipLoss()(image, text, scale)
