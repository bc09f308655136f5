import numpy as np
import pytest
import torch
from torch import Tensor

from clipkit.classify.temperature import (
    Temperature,
    calibrate_head,
    fit_temperature,
    fit_threshold,
    probabilities,
)


def drawn(scale: float, n: int = 4000, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Draw labels by the softmax of some logits, and return logits `scale` times as large."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0])
def test_the_temperature_that_labels_were_drawn_by_is_found(scale: float) -> None:
    logits, labels = drawn(scale)
    found = fit_temperature(logits, labels, "softmax")
    assert found.value == pytest.approx(scale, rel=0.06)
    grid = scale * torch.linspace(0.5, 2, 1501).double()
    losses = [
        float(torch.nn.functional.cross_entropy(logits.double() / value, labels)) for value in grid
    ]
    assert found.value == pytest.approx(float(grid[int(np.argmin(losses))]), rel=2e-3)


def test_scale_and_shift_of_sigmoids_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(30_000, 2, generator=generator) * 2
    labels = torch.zeros(30_000, dtype=torch.long)
    first = torch.rand(30_000, generator=generator) < true[:, 0].sigmoid()
    # One label is yes and the other no in each row, as of images with one label.
    both = torch.stack([true[:, 0], -true[:, 0]], 1)
    labels[~first] = 1
    found = fit_temperature(4 * both - 6, labels, "sigmoid")
    assert found.value == pytest.approx(4, rel=0.05)
    assert found.shift == pytest.approx(6 / 4, abs=0.05)
    torch.testing.assert_close(found(4 * both - 6), both, atol=0.3, rtol=0.1)


def test_what_it_mends_is_told() -> None:
    logits, labels = drawn(5.0)
    found = calibrate_head(logits, labels, "softmax")
    assert found.images == 4000
    assert found.ece_before > 0.15
    assert found.ece_after < 0.03
    again = probabilities(found.temperature(logits), "softmax")
    assert torch.equal(again.argmax(1), logits.argmax(1))


def test_of_images_all_named_right_the_temperature_stays_finite() -> None:
    logits = torch.eye(3) * 2
    for similarity in ("softmax", "sigmoid"):
        found = calibrate_head(logits, torch.arange(3), similarity)
        assert 0 < found.temperature.value < 1
        assert torch.isfinite(found.temperature(logits)).all()
    one = calibrate_head(logits[:1], torch.tensor([0]), "softmax")
    assert one.images == 1


def quality(confidence: Tensor, known: Tensor, cut: float) -> float:
    above = confidence >= cut
    return float(above[known].float().mean() + (~above[~known]).float().mean())


def test_a_threshold_tells_known_from_others_best() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        confidence = torch.tensor(rng.choice([0.1, 0.2, 0.4, 0.5, 0.7, 0.9], 30))
        known = torch.tensor(rng.random(30) < confidence.numpy())
        if known.all() or not known.any():
            continue

        best = max(quality(confidence, known, cut) for cut in np.linspace(0, 1, 201))
        found = fit_threshold(confidence, known)
        assert quality(confidence, known, found) == pytest.approx(best), seed


def test_a_temperature_is_a_division_and_a_shift() -> None:
    assert torch.equal(Temperature(2.0, 1.0)(torch.tensor([[4.0]])), torch.tensor([[3.0]]))
