"""The loss against a slow loop written from the papers."""

import inspect

import pytest
import torch
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses import Distance, Mining, TripletLoss
from clipkit.losses.triplet import MINERS
from tests.losses.cases import LABELS, labels
from tests.losses.pairs import CHUNK_SIZES, assert_equal, inputs, outcome

DISTANCES: list[Distance] = ["squared", "euclidean"]
SCALE = torch.tensor(3.0)


def slow_loss(
    views: list[Tensor], told: list[int], loss: TripletLoss, *, squared: bool = True
) -> Tensor:
    """Mean over triplets, one at a time."""
    rows = [(image, feature) for view in views for image, feature in enumerate(view)]

    def alike(i: int, k: int) -> bool:
        one, other = rows[i][0], rows[k][0]
        return one == other or told[one] == told[other] != -1

    def distance(i: int, k: int) -> Tensor:
        between: Tensor = (rows[i][1] - rows[k][1]).square().sum()
        return between if squared else between.sqrt()

    hinges = []
    for a in range(len(rows)):
        own = [distance(a, k) for k in range(len(rows)) if k != a and alike(a, k)]
        others = [distance(a, k) for k in range(len(rows)) if not alike(a, k)]
        if loss.mining == "all":
            found = [(p, n) for p in own for n in others]
        elif loss.mining == "batch_hard":
            found = [(max(own), min(others))] if own and others else []
        else:
            found = [(p, min(n for n in others if n > p)) for p in own if max(others) > p]
        hinges += [(loss.margin + p - n).clamp(min=0) for p, n in found]
    if loss.active_only:
        hinges = [hinge for hinge in hinges if hinge > 0]
    return torch.stack(hinges).mean()


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("active_only", [False, True])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_two_views_equal_the_slow_loop(
    mining: Mining, distance: Distance, active_only: bool, chunk_size: int
) -> None:
    for margin in (0.2, 1.5):
        loss = TripletLoss(
            margin=margin,
            mining=mining,
            distance=distance,
            active_only=active_only,
            chunk_size=chunk_size,
        )
        squared = distance == "squared"
        assert_equal(
            outcome(lambda *x: loss(*x, SCALE, None, labels()), inputs()[:2]),  # noqa: B023
            outcome(lambda *x: slow_loss([*x], LABELS, loss, squared=squared), inputs()[:2]),  # noqa: B023
        )


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_one_view_equals_the_slow_loop(mining: Mining, chunk_size: int) -> None:
    loss = TripletLoss(margin=0.9, mining=mining, chunk_size=chunk_size)
    assert_equal(
        outcome(lambda x: loss(x, None, SCALE, None, labels()), inputs()[:1]),
        outcome(lambda x: slow_loss([x], LABELS, loss), inputs()[:1]),
    )


def test_minings_differ() -> None:
    given = (*inputs()[:2], SCALE, None, labels())
    values = {TripletLoss(margin=0.9, mining=mining)(*given).item() for mining in MINERS}
    assert len(values) == len(MINERS)


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("told", [[0, 0, 0, 0], [0, 1, 2, 3], [0]], ids=["same", "other", "one"])
def test_without_a_triplet_there_is_nothing_to_learn(mining: Mining, told: list[int]) -> None:
    first, _, scale, _ = inputs()
    loss = TripletLoss(mining=mining, distance="euclidean")
    for active_only in (False, True):
        loss.active_only = active_only
        found = outcome(
            lambda x, s: loss(x, None, s, None, torch.tensor(told)), (first[: len(told)], scale)
        )
        assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=0)


def test_a_pair_with_no_negative_beyond_it_is_not_semi_hard() -> None:
    line = torch.tensor([[0.0], [3.0], [1.0]])
    told = torch.tensor([0, 0, 1])
    # From 0 the negative is nearer than the positive; from 3 it is, too: nothing is semi-hard.
    semi = TripletLoss(mining="semi_hard", distance="euclidean", margin=0.5)
    assert semi(line, None, SCALE, None, told) == 0
    hard = TripletLoss(mining="batch_hard", distance="euclidean", margin=0.5)
    assert hard(line, None, SCALE, None, told).item() == pytest.approx((2.5 + 1.5) / 2, abs=1e-6)


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_of_equally_far_ones_the_first_is_taken(mining: Mining, chunk_size: int) -> None:
    # 0 and 1 are of one class, 2 and -2 each of its own; floats hold all of it exactly.
    line = torch.tensor([[0.0], [1.0], [2.0], [-2.0]], requires_grad=True)
    loss = TripletLoss(margin=4.0, mining=mining, chunk_size=chunk_size)
    loss(line, None, SCALE, None, torch.tensor([0, 0, 1, 2])).backward()
    # From 0 both negatives are equally far: 4 + (x0 - x1)^2 - (x0 - x2)^2.
    expected = torch.tensor([2.0, 2.0, -4.0, 0.0])
    if mining == "batch_hard":  # from 1 the nearest is 2: 4 + (x0 - x1)^2 - (x1 - x2)^2
        expected += torch.tensor([-2.0, 4.0, -2.0, 0.0])
    # The nearest that is farther than 0 is -2, beyond the margin.
    torch.testing.assert_close(line.grad, expected[:, None] / 2)


@pytest.mark.parametrize("mining", MINERS)
def test_a_hinge_of_0_pulls_at_nothing(mining: Mining) -> None:
    # From 0: 3 + 1^2 - (-2)^2 = 0; from 1: 3 + 1^2 - 3^2.
    line = torch.tensor([[0.0], [1.0], [-2.0]])
    loss, told = TripletLoss(margin=3.0, mining=mining), torch.tensor([0, 0, 1])
    found = outcome(lambda x: loss(x, None, SCALE, None, told), (line,))
    assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=0)


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_features_are_finite(mining: Mining, distance: Distance) -> None:
    loss = TripletLoss(mining=mining, distance=distance)
    same = torch.ones(6, 4) / 2
    told = torch.tensor([0, 0, 1, 1, 2, 2])
    found = outcome(lambda x: loss(x, None, SCALE, None, told), (same,))
    assert all(x.isfinite().all() for x in found)
    if mining != "semi_hard":  # which finds nothing beyond
        assert found[0] == pytest.approx(0.2, abs=1e-6)
    assert found[1].abs().max() < 1e-5


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_far_features_are_finite_and_right(mining: Mining, distance: Distance) -> None:
    first = inputs()[0].detach() * 1e3
    loss = TripletLoss(mining=mining, distance=distance, margin=100.0)
    found = outcome(lambda x: loss(x, None, SCALE, None, labels()), (first.float(),))
    squared = distance == "squared"
    exact = outcome(
        lambda x: slow_loss([x], LABELS, loss, squared=squared), (first.float().double(),)
    )
    assert all(x.isfinite().all() for x in found)
    assert_equal(tuple(x.double() for x in found), exact, tolerance=1e-4)


def test_all_triplets_of_a_large_batch_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.nn.functional.normalize(torch.randn(400, 16, generator=generator), dim=1)
    told, loss = torch.arange(400) % 5, TripletLoss(mining="all", margin=0.05)
    found = outcome(lambda x: loss(x, None, SCALE, None, told), (features,))
    exact = outcome(lambda x: loss(x, None, SCALE, None, told), (features.double(),))
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1].double(), exact[1], rtol=1e-3, atol=1e-6)


def test_neither_a_second_view_nor_a_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        TripletLoss()(torch.ones(3, 2), None, SCALE)


def test_unknown_words_are_refused() -> None:
    make = inspect.unwrap(TripletLoss.__init__)  # without the run-time check of types
    with pytest.raises(ConfigError, match="batch_hard or semi_hard or all, not hardest"):
        make(TripletLoss.__new__(TripletLoss), mining="hardest")
    with pytest.raises(ConfigError, match="squared or euclidean, not cosine"):
        make(TripletLoss.__new__(TripletLoss), distance="cosine")
