"""Interpolation of weights: a model between the one before fine-tuning and the one after (WiSE-FT).

Wortsman et al. 2022, https://arxiv.org/abs/2109.01903. On the straight line between two models lie
some that keep most of what was learned and win back most of what was forgotten; `sweep` finds them.
"""

import copy
import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import torch
from torch import Tensor

from clipkit.errors import ConfigError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import merge_lora

MOST_ALPHAS = 1001

NOT_BUILT = ("lora", "base", "interpolation")
"""What `architecture` says of where weights are from, and not of how they are used."""


def interpolated(base: DualEncoder, tuned: DualEncoder, alpha: float) -> DualEncoder:
    """Return the model with the weights `(1 - alpha) * base + alpha * tuned`.

    That goes for every floating-point parameter and buffer, the logit scale by its logarithm, as
    it is stored; a running variance stays positive. What is no floating-point number is the
    tuned model's. At 0 and 1 all is bit for bit that of base and of tuned.

    LoRA adapters are merged first. One copy of the weights is made, and one more where it is base
    that has adapters.

    Args:
        base: the model before fine-tuning; it is left as it is.
        tuned: the model after; it is left as it is.
        alpha: share of the way from base to tuned, in [0, 1].

    Returns:
        A new model in evaluation mode where tuned is; its architecture notes what it is made of.

    Raises:
        ConfigError: when alpha is not in [0, 1].
        ModelError: when the two are not built, prepared or used alike, or are in bf16.

    Example:
        >>> from clipkit.models import load
        >>> starter = load("starter")
        >>> half = interpolated(starter, starter, 0.5)
        >>> half.fingerprint() == starter.fingerprint()
        True
    """
    check_alpha(alpha)
    base = without_adapters(base)
    merged = without_adapters(tuned)
    check_alike(base, merged)
    mixed = copy.deepcopy(merged) if merged is tuned else merged
    fill(mixed, base, merged, alpha)
    mixed.name = ""
    made_of = {"alpha": alpha, "base": base.fingerprint(), "tuned": tuned.fingerprint()}
    mixed.architecture = {**mixed.architecture, "interpolation": made_of}
    return mixed.eval()


def without_adapters(model: DualEncoder) -> DualEncoder:
    """Return a model itself if it has no LoRA adapters, else a copy with them merged."""
    return merge_lora(copy.deepcopy(model)) if "lora" in model.architecture else model


@torch.no_grad()
def fill(mixed: DualEncoder, base: DualEncoder, tuned: DualEncoder, alpha: float) -> None:
    """Write the weights between two models into a third, which may be `tuned` itself.

    Args:
        mixed: changed in place; shares no weights with base.
        base: what alpha 0 gives; without adapters, as the others.
        tuned: what alpha 1 gives.
        alpha: share of the way from base to tuned, in [0, 1].
    """
    at_base, at_tuned = _tensors(base), _tensors(tuned)
    written = set()
    for name, own in _tensors(mixed).items():
        if id(own) not in written:  # a weight that two names share, when tuned is read from here
            own.copy_(_between(at_base[name].to(own.device), at_tuned[name], alpha))
            written.add(id(own))


def _between(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    """Return one tensor between two; where they agree, it has the bits of base, as in -0.0."""
    if alpha in (0, 1):
        return tuned if alpha else base
    if not tuned.is_floating_point():
        return tuned
    return torch.where(base == tuned, base, torch.lerp(base, tuned, alpha))


def _tensors(model: DualEncoder) -> dict[str, Tensor]:
    """Return all parameters and buffers, those that two names share under both."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def same_weights(base: DualEncoder, tuned: DualEncoder, part: str) -> bool:
    """Say whether a part, such as "image_tower", is equal in two models that are built alike."""
    ours, theirs = base.get_submodule(part).state_dict(), tuned.get_submodule(part).state_dict()
    return all(torch.equal(value, theirs[name].to(value.device)) for name, value in ours.items())


def check_alike(base: DualEncoder, tuned: DualEncoder) -> None:
    """Stop where the weights of two models do not stand for the same.

    Args:
        base: without adapters.
        tuned: without adapters.

    Raises:
        ModelError: saying what differs first.
    """
    for model in (base, tuned):
        if model.tower_digests:
            raise ModelError(
                f"{model.name or 'the model'} was loaded with precision bf16 and cannot be"
                " interpolated: load it with precision float32"
            )
    found = _difference("", _described(base), _described(tuned))
    if found is None:
        shapes = [{k: tuple(v.shape) for k, v in _tensors(m).items()} for m in (base, tuned)]
        found = _difference("", *shapes)
    if found is not None:
        what, ours, theirs = found
        raise ModelError(
            f"{base.name or 'base'} and {tuned.name or 'tuned'} cannot be interpolated: {what} is"
            f" {ours} in the one and {theirs} in the other"
        )


def _described(model: DualEncoder) -> dict[str, Any]:
    """Return all settings that give weights their meaning."""
    built = {key: v for key, v in model.architecture.items() if key not in NOT_BUILT}
    for key, part in built.items():
        if isinstance(part, Mapping):  # a tower's "weights" say which package has them
            built[key] = {name: v for name, v in part.items() if name != "weights"}
    tokenizer = {**model.tokenizer.identity(), "context_length": model.context_length}
    described: dict[str, Any] = json.loads(
        json.dumps(
            {
                "architecture": built,
                "tokenizer": tokenizer,
                "preprocessing": model.preprocessing.settings(),
                "similarity": model.similarity,
                "long_texts": model.long_texts,
            }
        )
    )
    return described


def _difference(path: str, ours: Any, theirs: Any) -> tuple[str, str, str] | None:
    """Return the first place where two nested mappings differ, and what is there."""
    if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
        return None if ours == theirs else (path, _told(ours), _told(theirs))
    for key in {**ours, **theirs}:
        inside = f"{path}.{key}" if path else str(key)
        if found := _difference(inside, ours.get(key), theirs.get(key)):
            return found
    return None


def _told(value: Any) -> str:
    """Write a setting in a few words."""
    if value is None:
        return "absent"
    return "a section" if isinstance(value, Mapping) else repr(value)


def check_alpha(alpha: float) -> None:
    """Stop at what is no share.

    Raises:
        ConfigError: when alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: {alpha:g} is not a share of the way: write one from 0 to 1")


def parse_alphas(text: str) -> tuple[float, ...]:
    """Read alphas: `0,0.3,1`, or `0:1:0.1` for start, stop and step, stop included.

    Raises:
        ConfigError: when it is neither, or an alpha is not in [0, 1].

    Example:
        >>> parse_alphas("0:0.3:0.1")
        (0.0, 0.1, 0.2, 0.3)
    """
    span, words = ":" in text, text.split(":" if ":" in text else ",")
    try:
        numbers = [Decimal(word.strip()) for word in words]
    except InvalidOperation:
        numbers = []
    if not numbers or (span and len(numbers) != 3) or not all(n.is_finite() for n in numbers):
        raise ConfigError(f"alphas: {text!r} is neither start:stop:step nor a list such as 0,0.5,1")
    if span:
        start, stop, step = numbers
        if step <= 0 or start > stop:
            raise ConfigError(
                f"alphas: {text!r} goes nowhere: write start:stop:step, as in 0:1:0.1"
            )
        count = (stop - start) / step + 1
        if count >= MOST_ALPHAS + 1:
            raise ConfigError(f"alphas: {text!r} are {count:.0f}; at most {MOST_ALPHAS} are scored")
        numbers = [start + step * number for number in range(int(count))]
    alphas = tuple(float(number) for number in numbers)
    for alpha in alphas:
        check_alpha(alpha)
    return alphas
