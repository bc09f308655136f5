import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizerFast

from clipkit.components import check_options, filled
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import LastBlocks, Lora, Trainable, set_trainable
from clipkit.train.optim import (
    OptimSettings,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)
from tests.models.small import small_model, transformers_model

Make = Callable[..., DualEncoder]


def parameter_names(model: DualEncoder, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimiser's parameters, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]
    ]


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


def by_name(model: DualEncoder, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Return each parameter's group by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_matrices_decay_and_nothing_else(model: DualEncoder) -> None:
    model.image_tower.requires_grad_(False)
    groups = by_name(model, build_optimizer(model, OptimSettings(weight_decay=0.3)))
    for name, parameter in model.named_parameters():
        if name.startswith("image_tower"):
            assert name not in groups
        else:
            assert groups[name]["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    assert groups["log_logit_scale"]["weight_decay"] == 0


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize(
    "what", ["all", "projections", "image_tower", "text_tower", LastBlocks(1), Lora(rank=2)]
)
def test_every_parameter_that_trains_is_in_one_group(
    what: str | Trainable, layer_decay: float, make_model: Make
) -> None:
    orders = []
    for _ in range(2):
        model = make_model(image="test_efficientnet")
        set_trainable(model, what)
        optimizer = build_optimizer(model, OptimSettings(layer_decay=layer_decay))
        orders.append(parameter_names(model, optimizer))
        names = [group["name"] for group in optimizer.param_groups]
        assert len(set(names)) == len(names)
        assert all(group["params"] for group in optimizer.param_groups)
    assert orders[0] == orders[1]
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(orders[0]) == sorted(trains)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    parameters = dict(model.named_parameters())
    assert held == [id(parameters[name]) for name in orders[0]]


def test_the_names_and_the_order_of_groups(model: DualEncoder) -> None:
    def names(settings: OptimSettings) -> list[str]:
        return [group["name"] for group in build_optimizer(model, settings).param_groups]

    parts = ["image_tower", "text_tower", "projections"]
    expected = [f"{part}{kind}" for part in parts for kind in ("", ".1d")]
    assert names(OptimSettings()) == [*expected, "logit_scale.1d"]
    model.image_tower.requires_grad_(False)
    levels = [f"text_tower{level}" for level in (".level3", ".level2", ".level1", "")]
    expected = [f"{part}{kind}" for part in (*levels, "projections") for kind in ("", ".1d")]
    assert names(OptimSettings(layer_decay=0.5)) == [*expected, "logit_scale.1d"]


def test_factors_of_parts(model: DualEncoder) -> None:
    bias = torch.nn.Parameter(torch.tensor(-10.0))
    model.logit_bias_parameter = bias
    factors = {"image_tower": 0.1, "projections": 2.0, "logit_scale": 0.0}
    settings = OptimSettings(lr=0.5, lr_factors=factors, warmup_steps=4)
    optimizer = build_optimizer(model, settings)
    groups = by_name(model, optimizer)
    for step in (0, 3, 9):
        rate = set_learning_rate(optimizer, settings, step, 20)
        assert rate == learning_rate(settings, step, 20)
        for name, group in groups.items():
            factor = {"image_tower": 0.1, "text_tower": 1.0, "image_projection": 2.0}
            factor |= {"text_projection": 2.0, "log_logit_scale": 0, "logit_bias_parameter": 0}
            assert group["lr"] == pytest.approx(rate * factor[name.partition(".")[0]])


def test_the_first_step_goes_as_far_as_the_learning_rate(model: DualEncoder) -> None:
    """Adam's first step is the learning rate itself, against the sign of the gradient."""
    settings = OptimSettings(
        lr=0.01, lr_factors={"text_tower": 0.5}, layer_decay=0.8, weight_decay=0.0, eps=1e-12
    )
    optimizer = build_optimizer(model, settings)
    rate = set_learning_rate(optimizer, settings, 0, 100)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    layer = "text_tower.model.encoder.layer"
    expected = {
        "log_logit_scale": 1.0,
        "image_projection.linear.weight": 1.0,
        "image_tower.model.layer4.0.conv1.weight": 0.8,
        "image_tower.model.layer1.0.conv1.weight": 0.8**4,
        "image_tower.model.conv1.0.weight": 0.8**5,
        f"{layer}.1.attention.self.query.weight": 0.5 * 0.8,
        f"{layer}.0.output.LayerNorm.bias": 0.5 * 0.8**2,
        "text_tower.model.embeddings.word_embeddings.weight": 0.5 * 0.8**3,
        "text_tower.model.embeddings.LayerNorm.weight": 0.5 * 0.8**3,
    }
    for name, factor in expected.items():
        torch.testing.assert_close(
            moved[name], torch.full_like(moved[name], rate * factor), rtol=1e-3, atol=1e-7
        )


@pytest.mark.parametrize("kind", ["open_clip", "siglip", "test_vit"])
def test_layer_decay_of_vits(
    kind: str, make_model: Make, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    if kind == "siglip":
        model = transformers_model(kind, tmp_path)
    else:
        model = small_model(kind, make_model, tokenizer)
    blocks, first = {
        "open_clip": (2, "transformer.resblocks"),
        "siglip": (2, "encoder.layers"),
        "test_vit": (6, "blocks"),
    }[kind]
    groups = by_name(model, build_optimizer(model, OptimSettings(layer_decay=0.7)))
    seen = set()
    for name, group in groups.items():
        inside = name.partition(f"image_tower.model.{first}.")[2]
        if inside:
            block = int(inside.partition(".")[0])
            assert group["lr_factor"] == pytest.approx(0.7 ** (blocks - block))
        elif name.startswith("image_tower"):
            early = any(part in name for part in ("embed", "token", "conv1", "ln_pre"))
            assert group["lr_factor"] == pytest.approx(0.7 ** (blocks + 1) if early else 1.0)
            seen.add(early)
        elif not name.startswith("text_tower"):
            assert group["lr_factor"] == 1.0
    assert seen == {True, False}


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        OptimSettings(
            lr=0.0,
            lr_factors={"image_towr": 0.1, "text_tower": -1.0},
            layer_decay=1.5,
            weight_decay=-0.1,
            beta1=1.0,
            beta2=float("nan"),
            eps=0.0,
            warmup_steps=-1,
            schedule="cosin",
            clip_norm=float("inf"),
        )
    expected = {
        "optim.lr: 0.0 is no number above 0",
        "optim.lr_factors: 'image_towr' is no part of a model; did you mean 'image_tower'?",
        "optim.lr_factors.text_tower: -1.0 is no number from 0 on",
        "optim.layer_decay: 1.5 is not above 0 and at most 1",
        "optim.weight_decay: -0.1 is no number from 0 on",
        "optim.beta1: 1.0 is not a share from 0 up to 1",
        "optim.beta2: nan is not a share from 0 up to 1",
        "optim.eps: 0.0 is no number above 0",
        "optim.warmup_steps: -1 is no number from 0 on",
        "optim.schedule: 'cosin' is unknown; did you mean 'cosine'?",
        "optim.clip_norm: inf is no number from 0 on",
    }
    assert set(caught.value.problems) == expected
    assert len(caught.value.problems) == len(expected)


def test_what_a_recipe_says_becomes_settings() -> None:
    problems: list[str] = []
    given = {"lr": "1e-4", "lr_factors": {"image_tower": "1e-1", "logit_scale": 0}}
    checked = check_options(OptimSettings, given, "optim", problems)
    assert not problems
    settings = OptimSettings(**checked)
    assert settings.lr == 1e-4
    assert settings.lr_factors == {"image_tower": 0.1, "logit_scale": 0.0}
    assert filled(OptimSettings, checked)["layer_decay"] == 1.0
    check_options(OptimSettings, {"lr_factors": {"image_tower": "low"}}, "optim", problems)
    assert len(problems) == 1
    assert problems[0].startswith("optim.lr_factors")
