"""AdamW with warm-up and decay."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """How the parameters move.

    Attributes:
        lr: peak learning rate.
        weight_decay: decoupled (AdamW, https://arxiv.org/abs/1711.05101); none on biases, norms
            and the logit scale.
        beta1: decay of the mean of the gradient.
        beta2: decay of the mean of its square.
        eps: added to the root of that.
        warmup_steps: optimiser steps of linear warm-up.
        schedule: "cosine" to zero, "linear" to zero, or "constant" after the warm-up.
        clip_norm: the gradient's largest norm; 0 for no clipping.
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_steps: int = 20
    schedule: str = "cosine"
    clip_norm: float = 1.0


SCHEDULES = ("cosine", "linear", "constant")


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


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Make AdamW over what trains; matrices decay, everything of fewer dimensions does not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
