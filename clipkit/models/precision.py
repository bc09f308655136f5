"""Half the bits: towers that compute in bfloat16, where the hardware does, for inference."""

import platform
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder, state_digests
from clipkit.models.structure import TOWERS

Precision = Literal["float32", "bf16", "auto"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "auto")
FOLDS = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods of timm's modules by which several branches become one."""


def computes_in_bf16(device: str | torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers itself; imitating that is slower than float32.

    Args:
        device: a GPU or the CPU; of other devices nothing is known, and the answer is no.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def find_device(name: str) -> torch.device:
    """Return a device that this machine has.

    Raises:
        ConfigError: it has none of that name.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used: {reason}") from None


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether a precision means bfloat16 on a device.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))


def halve_towers(model: DualEncoder) -> None:
    """Make a model's towers compute in bfloat16, for inference.

    They take and give float32 as before, and are frozen. The projections and the logit scale stay
    float32. The model keeps the fingerprint that it had, and cannot be saved.

    A tower with batch normalisation stays float32: rounding the weights of the starter's
    EfficientNet-Lite0, no more, turns the features of a photo by a cosine of 0.998. Branches that
    are there for training are folded into one convolution, where timm knows how (MobileOne,
    FastViT, RepVGG); features stay within rounding of float32.
    """
    left = [name for name in TOWERS if name not in model.tower_digests]
    names = [name for name in left if _changes(getattr(model, name))]
    towers: list[nn.Module] = [getattr(model, name) for name in names]
    model.tower_digests.update(zip(names, state_digests(towers), strict=True))
    for tower in towers:
        if _has_batch_norm(tower):
            from timm.utils.model import reparameterize_model

            reparameterize_model(tower.eval(), inplace=True).requires_grad_(False)
            continue
        tower.requires_grad_(False).to(torch.bfloat16)
        tower.register_forward_pre_hook(_into_bf16)
        tower.register_forward_hook(_into_float32)


def _has_batch_norm(tower: nn.Module) -> bool:
    return any(name.endswith("running_var") for name, _ in tower.named_buffers())


def _changes(tower: nn.Module) -> bool:
    """Whether a tower can be halved, or its branches folded."""
    folds = any(hasattr(part, way) for part in tower.modules() for way in FOLDS)
    return folds or not _has_batch_norm(tower)


def _into_bf16(tower: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast a tower's images; tokens and masks are whole numbers, and stay so."""
    images = [isinstance(value, Tensor) and value.is_floating_point() for value in arguments]
    return tuple(
        value.to(torch.bfloat16) if image else value
        for value, image in zip(arguments, images, strict=True)
    )


def _into_float32(tower: nn.Module, arguments: tuple[Any, ...], features: Tensor) -> Tensor:
    """Cast what a tower gives."""
    return features.float()
