import math

import pytest
import torch
from torch import nn

from clipkit.train.optim import OptimSettings, build_optimizer, learning_rate


def test_warm_up_then_cosine() -> None:
    settings = OptimSettings(lr=2.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(settings, step, 24) for step in range(24)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    for step in range(4, 24):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 4) / 20))
    assert rates[4] == 2.0


def test_linear_and_constant() -> None:
    linear = OptimSettings(lr=1.0, warmup_steps=0, schedule="linear")
    assert [learning_rate(linear, s, 4) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    constant = OptimSettings(lr=1.0, warmup_steps=2, schedule="constant")
    assert [learning_rate(constant, s, 4) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_a_run_shorter_than_its_warm_up() -> None:
    settings = OptimSettings(lr=1.0, warmup_steps=10)
    assert all(0 < learning_rate(settings, step, 3) <= 1 for step in range(3))


def test_matrices_decay_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimSettings(weight_decay=0.3))
    groups = {
        group["weight_decay"]: {id(p) for p in group["params"]} for group in optimizer.param_groups
    }
    assert groups[0.3] == {id(model[2].weight)}
    others = {id(p) for p in model.parameters() if p.requires_grad} - groups[0.3]
    assert groups[0.0] == others
