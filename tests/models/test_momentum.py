import copy
import re

import pytest
import torch
from torch import nn

from clipkit.errors import ConfigError
from clipkit.models.momentum import momentum_update


def module(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    made(torch.randn(6, 3))  # running statistics that are not those of the start
    return made


def test_parameters_move_as_in_the_paper_and_statistics_are_copied() -> None:
    target, source = module(0), module(1)
    before = copy.deepcopy(target)
    for _ in range(2):
        momentum_update(target, source, 0.9)
    for (name, mine), old in zip(target.named_parameters(), before.parameters(), strict=True):
        other = source.get_parameter(name)
        expected = 0.9 * (0.9 * old + 0.1 * other) + 0.1 * other
        torch.testing.assert_close(mine, expected)
    for name, value in source.named_buffers():
        assert torch.equal(target.get_buffer(name), value)


def test_the_source_stays_and_shares_nothing() -> None:
    target, source = module(0), module(1)
    before = copy.deepcopy(source.state_dict())
    momentum_update(target, source, 0.0)
    with torch.no_grad():
        for value in target.state_dict().values():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_are_exact(momentum: float) -> None:
    target, source = module(0), module(1)
    kept = copy.deepcopy(target)
    momentum_update(target, source, momentum)
    for mine, value in zip(
        target.parameters(), (kept if momentum else source).parameters(), strict=True
    ):
        assert torch.equal(mine, value)


def test_gradients_are_none_of_its_business() -> None:
    target, source = module(0), module(1)
    momentum_update(target, source, 0.5)
    assert all(value.grad is None and value.is_leaf for value in target.parameters())
    target(torch.randn(4, 3)).sum().backward()
    assert all(value.grad is None for value in source.parameters())


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ConfigError, match="momentum must be from 0 to 1"):
        momentum_update(module(0), module(0), momentum)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Sequential(nn.Linear(3, 5)), "0.bias is (5,) in the one that follows and (4,)"),
        (nn.Sequential(nn.Linear(3, 4)), "1.bias is nothing in the one that follows and (4,)"),
    ],
    ids=["shape", "missing"],
)
def test_models_that_are_not_alike_are_refused(other: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        momentum_update(other, module(1), 0.9)


def test_half_precision_that_would_not_move_is_refused() -> None:
    source = module(1)
    target = copy.deepcopy(source).bfloat16()
    with pytest.raises(ConfigError, match="keep it in float32"):
        momentum_update(target, source, 0.999)
    momentum_update(target, source, 0.0)
    source.requires_grad_(False)  # nothing to follow
    momentum_update(target, source, 0.999)
