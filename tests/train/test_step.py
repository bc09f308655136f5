"""The loss of a step, as the sum of its terms."""

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import ClipLoss, NTXentLoss
from clipkit.train.feed import StepBatch
from clipkit.train.grad_cache import Features
from clipkit.train.objective import Objective
from clipkit.train.step import StepObjective
from tests.train.small_pairs import BATCH, tiny_model, whole_batch
from tests.train.small_views import term, view_batch


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=1)


def test_it_is_the_sum_of_pairs_and_views() -> None:
    model, pairs, views = tiny_model("clip", 0.0), whole_batch(), view_batch()
    shown, seen = (unit(BATCH, 16), unit(BATCH, 16)), (unit(12, 8), unit(12, 8))
    features = Features(*shown, *seen)
    made = term(model, "slip")
    both = StepObjective(Objective(ClipLoss()), made)
    aim = both(model, StepBatch(pairs, views), features, signal=4)
    one = Objective(ClipLoss())(model, pairs, *shown).loss
    other = made(model, views, *seen).loss
    torch.testing.assert_close(aim.loss, one + other)
    assert list(aim.terms) == ["pairs", "views"]
    assert aim.signal == 4
    assert aim.rows() == set(range(BATCH)) | set(range(100, 112))
    torch.testing.assert_close(aim.first_loss, one)
    assert both.chance(aim) == pytest.approx(torch.tensor(float(BATCH)).log().item())
    assert list(aim.sides()) == ["image", "text"]


def test_views_alone() -> None:
    model, views = tiny_model("clip", 0.0), view_batch()
    alone = StepObjective(None, term(model, "alone"))
    aim = alone(model, StepBatch(None, views), Features(None, None, unit(12, 8), unit(12, 8)))
    assert aim.pairs is None
    assert list(aim.terms) == ["views"]
    torch.testing.assert_close(aim.first_loss, aim.loss)
    assert alone.chance(aim) == pytest.approx(0.7 * torch.tensor(23.0).log().item())
    assert list(aim.sides()) == ["image"]
    assert aim.spoilt_rows() == []


def test_equal_features_have_the_loss_of_guessing() -> None:
    """Which is what the runs that never leave it are told by."""
    same = torch.ones(6, 4) / 2
    guessed = NTXentLoss(temperature=0.5)(same, same, torch.tensor(1.0)).item()
    assert guessed == pytest.approx(NTXentLoss().chance(6))
    assert ClipLoss()(same, same, torch.tensor(3.0)).item() == pytest.approx(ClipLoss().chance(6))


def test_a_loss_that_does_not_know_has_none() -> None:
    model = tiny_model("clip", 0.0)
    alone = StepObjective(None, term(model, "labels"))
    aim = alone(
        model, StepBatch(None, view_batch()), Features(None, None, unit(12, 8), unit(12, 8))
    )
    assert alone.chance(aim) is None


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would be learned"):
        StepObjective(None)
