"""The loss against a slow loop written from the papers."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from clipkit.errors import ConfigError
from clipkit.losses import ClipLoss, Duplicates, Positives
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


def slow_loss(
    mode: Duplicates, smoothing: float, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Mean over both directions of -sum of target * log softmax, one pair at a time."""
    total = torch.zeros_like(scale)
    for queries, keys in ((image, text), (text, image)):
        for i in range(BATCH):
            logits = {
                j: scale * (queries[i] * keys[j]).sum() + bias
                for j in range(BATCH)
                if not is_left_out(mode, i, j)
            }
            denominator = torch.stack(list(logits.values())).exp().sum().log()
            right = [j for j in range(BATCH) if is_positive(mode, i, j)]
            for j, logit in logits.items():
                target = (1 - smoothing) * (j in right) / len(right) + smoothing / len(logits)
                total = total - target * (logit - denominator)
    return total / (2 * BATCH)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_value_and_gradients_equal_the_slow_loop(
    mode: Duplicates, smoothing: float, chunk_size: int
) -> None:
    loss = ClipLoss(label_smoothing=smoothing, chunk_size=chunk_size)
    assert_equal(
        outcome(lambda *given: loss(*given, positives(mode)), inputs()),
        outcome(lambda *given: slow_loss(mode, smoothing, *given), inputs()),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("count", [2, 3, BATCH + 2])
def test_ranks_together_give_each_the_whole(mode: Duplicates, smoothing: float, count: int) -> None:
    loss = ClipLoss(label_smoothing=smoothing, chunk_size=2)
    whole = outcome(lambda *given: loss(*given, positives(mode)), inputs())
    parts = on_ranks(
        count,
        lambda share: outcome(lambda *given: loss(*given, positives(mode), share=share), inputs()),
    )
    for part in parts:
        assert_equal(part, whole)
        assert all(torch.equal(mine, first) for mine, first in zip(part, parts[0], strict=True))


def test_label_smoothing_is_that_of_torch() -> None:
    image, text, scale, _ = inputs()
    logits, labels = scale * image @ text.T, torch.arange(BATCH)
    expected = (
        cross_entropy(logits, labels, label_smoothing=0.3)
        + cross_entropy(logits.T, labels, label_smoothing=0.3)
    ) / 2
    torch.testing.assert_close(ClipLoss(label_smoothing=0.3)(image, text, scale), expected)


def test_without_positives_the_diagonal_is_meant() -> None:
    image, text, scale, bias = inputs()
    alone = ClipLoss()(image, text, scale, bias, positives("ignore"))
    assert ClipLoss()(image, text, scale) == alone


def test_uniform_features_give_log_batch() -> None:
    same = torch.ones(8, 4) / 2
    assert ClipLoss()(same, same, torch.tensor(9.0)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_the_bias_gets_a_gradient_of_zero() -> None:
    image, text, scale, bias = inputs(torch.float32)
    ClipLoss()(image, text, scale, bias).backward()
    assert bias.grad == 0


@pytest.mark.parametrize("mode", MODES)
def test_extreme_cosines_at_scale_100_are_finite_and_right(mode: Duplicates) -> None:
    image = normalize(inputs()[0].detach(), dim=1)
    scale, bias, loss = torch.tensor(100.0), torch.tensor(0.0), ClipLoss(chunk_size=3)
    for text in (image, -image, image.flip(0)):  # as good, and as bad, as can be
        given = (image, text, scale, bias)
        found = tuple(
            x.double()
            for x in outcome(lambda *x: loss(*x, positives(mode)), tuple(x.float() for x in given))
        )
        expected = outcome(lambda *x: slow_loss(mode, 0.0, *x), tuple(x.double() for x in given))
        assert all(x.isfinite().all() for x in found)
        assert_equal(found, expected, tolerance=1e-4)


def test_rows_far_apart_stay_finite_in_float32() -> None:
    # Some rows of logits are near 1e4, some near -1e4: nothing may overflow or vanish.
    image = torch.tensor([[100.0], [-100.0], [0.001], [50.0]])
    text = torch.tensor([[100.0], [99.0], [-100.0], [-0.5]])
    scale = torch.tensor(1.0)
    found = outcome(lambda *x: ClipLoss(chunk_size=2)(*x), (image, text, scale))
    logits = (image @ text.T).double()
    labels = torch.arange(4)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(found[0], expected.float())
    assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_float32_inside_half_precision(low: torch.dtype) -> None:
    image, text, scale, _ = (x.detach() for x in inputs(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outcome(ClipLoss(), (image, text, scale))
    assert_equal(found, outcome(ClipLoss(), (image, text, scale)), tolerance=0)
    value, d_image, d_text, d_scale = outcome(ClipLoss(), (image.to(low), text.to(low), scale))
    assert (value.dtype, d_scale.dtype) == (torch.float32, torch.float32)
    assert (d_image.dtype, d_text.dtype) == (low, low)
    rounded = outcome(ClipLoss(), (image.to(low).float(), text.to(low).float(), scale))
    assert_equal((value, d_scale), (rounded[0], rounded[3]), tolerance=0)


@pytest.mark.parametrize("arguments", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_smoothing_out_of_range_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing must be .* not"):
        ClipLoss(**arguments)  # type: ignore[arg-type]


def test_pairs_of_one_caption_make_no_difference_as_positives_or_as_negatives() -> None:
    """Only the sum over such pairs counts: what one of them pushes away another pulls back.

    With labels as captions, softmax training is the same whether duplicates are positives or not.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (24,), generator=generator)
    classes = normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64), dim=1)
    pictures = normalize(torch.randn(24, 6, generator=generator, dtype=torch.float64), dim=1)
    found = []
    for mode in ("positive", "ignore", "mask"):
        image, text = pictures.clone().requires_grad_(), classes.clone().requires_grad_()
        scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
        told = Positives(torch.arange(24), labels, mode)
        ClipLoss()(image, text[labels], scale, None, told).backward()
        found.append([value.grad for value in (image, text, scale)])
    for positive, ignore, mask in zip(*found, strict=True):
        torch.testing.assert_close(positive, ignore, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(positive, mask, rtol=1e-3, atol=1e-5)
