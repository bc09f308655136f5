"""AdamW with warm-up and decay, and learning rates of their own for parts and layers."""

import math
from dataclasses import dataclass

import torch

from clipkit.errors import ConfigError, did_you_mean
from clipkit.models.depth import levels_from_output
from clipkit.models.dual_encoder import DualEncoder

SCHEDULES = ("cosine", "linear", "constant")
PARTS = {
    "image_tower": "image_tower",
    "text_tower": "text_tower",
    "image_projection": "projections",
    "text_projection": "projections",
    "log_logit_scale": "logit_scale",
    "logit_bias_parameter": "logit_scale",
    "views": "projections",
}
"""Which part, as `lr_factors` calls it, the parameters below an attribute of a model belong to."""

NOT_NEGATIVE = ("weight_decay", "warmup_steps", "clip_norm")
ABOVE_ZERO = ("lr", "eps")


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """How the parameters move.

    Attributes:
        lr: peak learning rate.
        lr_factors: what the learning rate of a part is multiplied by, for `image_tower`,
            `text_tower`, `projections` or `logit_scale` (a sigmoid model's bias goes with it), such
            as `{image_tower: 0.1}`; 1 for those not named.
        layer_decay: what the learning rate of a tower's block is multiplied by for each step that
            it is further from the output (https://arxiv.org/abs/2106.08254): the last block's by
            layer_decay, the first of n by layer_decay**n, embeddings by layer_decay**(n + 1), and
            what comes after the blocks by 1.
        weight_decay: decoupled (AdamW, https://arxiv.org/abs/1711.05101), of parameters with two
            or more dimensions: none on biases, norms, the logit scale and its bias.
        beta1: decay of the mean of the gradient.
        beta2: decay of the mean of its square.
        eps: added to the root of that.
        warmup_steps: optimiser steps of linear warm-up.
        schedule: "cosine" to zero, "linear" to zero, or "constant" after the warm-up.
        clip_norm: the gradient's largest norm; 0 for no clipping.

    Raises:
        ConfigError: with every problem in its `problems`, each named as a recipe names it.
    """

    lr: float = 1e-3
    lr_factors: dict[str, float] | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_steps: int = 20
    schedule: str = "cosine"
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if problems := _problems(self):
            raise ConfigError("optim cannot be used:", problems)


def _problems(settings: OptimSettings) -> list[str]:
    """Say what is wrong with the values."""
    found = []
    for name in ABOVE_ZERO:
        if not 0 < getattr(settings, name) < math.inf:
            found.append(f"optim.{name}: {getattr(settings, name)} is no number above 0")
    for part, factor in (settings.lr_factors or {}).items():
        if part not in PARTS.values():
            hint = did_you_mean(part, set(PARTS.values()))
            found.append(f"optim.lr_factors: {part!r} is no part of a model{hint}")
        elif not 0 <= factor < math.inf:
            found.append(f"optim.lr_factors.{part}: {factor} is no number from 0 on")
    if not 0 < settings.layer_decay <= 1:
        found.append(f"optim.layer_decay: {settings.layer_decay} is not above 0 and at most 1")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(settings, name) < 1:
            found.append(f"optim.{name}: {getattr(settings, name)} is not a share from 0 up to 1")
    for name in NOT_NEGATIVE:
        if not 0 <= getattr(settings, name) < math.inf:
            found.append(f"optim.{name}: {getattr(settings, name)} is no number from 0 on")
    if settings.schedule not in SCHEDULES:
        hint = did_you_mean(settings.schedule, SCHEDULES)
        found.append(f"optim.schedule: {settings.schedule!r} is unknown{hint}")
    return found


def learning_rate(settings: OptimSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, in a run of `steps`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "linear":
        return settings.lr * (1 - share)
    return settings.lr


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: OptimSettings, step: int, steps: int
) -> float:
    """Set the learning rate of a step in every group; return that of the groups whose factor is 1.

    Args:
        optimizer: what `build_optimizer` made.
        settings: what it was made with.
        step: counted from 0.
        steps: of the whole run.
    """
    rate = learning_rate(settings, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    return rate


def build_optimizer(
    model: DualEncoder, settings: OptimSettings, *, views: torch.nn.Module | None = None
) -> torch.optim.AdamW:
    """Make AdamW over what trains; matrices decay, everything of fewer dimensions does not.

    Every group says in "name" what it holds, in "lr_factor" its learning rate as a multiple of the
    run's, and in "weight_decay" its decay. Groups are in the order of the model's parts, and within
    a part from its input to its output; parameters in the order of the model.

    Args:
        model: what trains.
        settings: how.
        views: what a run has for its views; what trains of it goes with the projections.
    """
    factors = settings.lr_factors or {}
    levels = _levels(model) if settings.layer_decay < 1 else {}
    parts = list(dict.fromkeys(PARTS.values()))
    groups: dict[tuple[int, int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in trained_parameters(model, views).items():
        if parameter.requires_grad:
            part = parts.index(PARTS[name.partition(".")[0]])
            key = (part, -levels.get(name, 0), parameter.ndim < 2)
            groups.setdefault(key, []).append(parameter)
    made = []
    for (part, level, vectors), parameters in sorted(groups.items(), key=lambda item: item[0]):
        factor = float(factors.get(parts[part], 1.0)) * settings.layer_decay**-level
        made.append(
            {
                "params": parameters,
                "name": f"{parts[part]}{f'.level{-level}' if level else ''}{'.1d' * vectors}",
                "lr_factor": factor,
                "lr": settings.lr * factor,
                "weight_decay": 0.0 if vectors else settings.weight_decay,
            }
        )
    return torch.optim.AdamW(
        made,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def trained_parameters(
    model: torch.nn.Module, views: torch.nn.Module | None = None
) -> dict[str, torch.nn.Parameter]:
    """Return what an optimiser may move, by name: of a model, and of what a run has besides."""
    found = dict(model.named_parameters())
    if views is not None:
        found.update(views.named_parameters(prefix="views"))
    return found


def _levels(model: DualEncoder) -> dict[str, int]:
    """Return how far the parameters of the towers that train are from the output."""
    levels = {}
    for tower in ("image_tower", "text_tower"):
        if any(parameter.requires_grad for parameter in model.get_submodule(tower).parameters()):
            found = levels_from_output(model, tower)
            levels.update({f"{tower}.{name}": level for name, level in found.items()})
    return levels
