"""A second model that follows a first one slowly."""

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError


@torch.no_grad()
def momentum_update(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move a module's parameters towards another's (MoCo, https://arxiv.org/abs/1911.05722).

    target = momentum * target + (1 - momentum) * source

    Buffers, such as running statistics, are copied. Begin with a deep copy of the source, or with
    a momentum of 0. The target needs no gradients: call `requires_grad_(False)` on it once.

    Args:
        target: what follows, changed in place.
        source: what is trained.
        momentum: from 0, which copies, to 1, which changes no parameter; 0.999 in the paper.

    Raises:
        ConfigError: when `momentum` is not from 0 to 1, when the two are not of one structure, or
            when the target is of half precision, which rounds small steps to none.

    Example:
        >>> target, source = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> momentum_update(target, source, 0.0)
        >>> torch.equal(target.weight, source.weight)
        True
    """
    if not 0 <= momentum <= 1:
        raise ConfigError(f"momentum must be from 0 to 1, not {momentum}")
    parameters = _paired(dict(target.named_parameters()), dict(source.named_parameters()))
    buffers = _paired(dict(target.named_buffers()), dict(source.named_buffers()))
    if momentum:
        _check_precision(target, source)
    for mine, other in parameters:
        mine.lerp_(other.to(mine), 1 - momentum)
    for mine, other in buffers:
        mine.copy_(other)


def _paired(target: dict[str, Tensor], source: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return what has the same name in both."""
    for name in sorted(target.keys() | source.keys()):
        shapes = [
            tuple(tensors[name].shape) if name in tensors else "nothing"
            for tensors in (target, source)
        ]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"momentum: both models must be alike, but {name} is {shapes[0]} in the one that"
                f" follows and {shapes[1]} in the other"
            )
    return [(value, source[name]) for name, value in target.items()]


def _check_precision(target: nn.Module, source: nn.Module) -> None:
    """Refuse half precision where something is trained."""
    trains = {name for name, value in source.named_parameters() if value.requires_grad}
    for name, value in target.named_parameters():
        if name in trains and torch.finfo(value.dtype).bits < 32:
            raise ConfigError(
                f"momentum: {name} of the model that follows is {value.dtype}, which rounds small"
                " steps to none; keep it in float32"
            )
