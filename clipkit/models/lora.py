"""LoRA: low-rank changes of frozen weights (Hu et al. 2022, https://arxiv.org/abs/2106.09685).

peft adapts the layers that are called. Fused attention reads its weights instead (`in_proj_weight`
and `out_proj` of `nn.MultiheadAttention`, `in_proj_weight` of open_clip's own attention), which a
layer in their place would not notice, or peft only as a whole and without dropout: there the weight
itself becomes the sum of what it was and of the low-rank change, as whoever reads it sees it (see
`low_rank`). The names of the weights stay, and so does whatever is computed with them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError, MissingExtraError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.low_rank import adapt
from clipkit.models.structure import CONTAINERS, TOWERS, innermost_blocks, look, used_from

FUSED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights that attention keeps without a layer around them."""

PEFT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Types, not their kin, that peft's layers stand for exactly."""

FAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""In evaluation these read the weights of their layers past any layer in their place."""

PARTS = ("attention", "mlp")
SIDES = ("lora_A", "lora_B")


def add_lora(
    model: DualEncoder,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    layers: Sequence[str] = ("attention", "mlp"),
    towers: Sequence[str] = TOWERS,
) -> None:
    """Adapt the blocks of a model's towers; until it is trained, its features are what they were.

    Args:
        model: changed in place.
        rank: of each weight's change.
        alpha: the change is scaled by alpha / rank.
        dropout: share of a layer's input that its adapter does not see in training.
        layers: "attention" (of each block: q, k, v and out), "mlp" (what else a block has of linear
            layers and of convolutions that are not grouped), or ends of module names.
        towers: "image_tower", "text_tower".

    Raises:
        ConfigError: when there is nothing to adapt, or dropout cannot be applied.
        MissingExtraError: without peft.
    """
    if "lora" in model.architecture:
        raise ConfigError("trainable: the model has LoRA adapters; merge them before adding others")
    chosen: list[_Weight] = []
    for tower in towers:
        weights = _weights(model, tower)
        here = [weight for weight in weights if any(map(weight.answers, layers))]
        if not here:
            names = [weight.name for weight in weights]
            raise ConfigError(
                f"trainable.layers: {tower} has no {' or '.join(layers)}; it has"
                f" {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}"
            )
        chosen += here
    named = [layer for layer in layers if layer not in PARTS]
    idle = [layer for layer in named if not any(weight.answers(layer) for weight in chosen)]
    if idle:
        raise ConfigError(
            f"trainable.layers: no tower has {idle[0]!r}: write attention, mlp or the end of a"
            " module's name"
        )
    called = [weight.name for weight in chosen if weight.called]
    read = [weight.name for weight in chosen if not weight.called]
    if dropout and read:
        raise ConfigError(
            f"trainable.dropout: {read[0]} is read and not called, so that nothing can be dropped"
            " from its input: set dropout to 0, or name layers that are called"
        )
    settings = {"rank": rank, "alpha": alpha, "dropout": dropout, "called": called, "read": read}
    attach_lora(model, settings)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight that can be adapted.

    Attributes:
        name: of the parameter in the model.
        part: "attention" or "mlp" of a block, or "" outside all blocks.
        called: its layer is called, and peft has a layer to stand in its place.
    """

    name: str
    part: str
    called: bool

    def answers(self, layer: str) -> bool:
        """Say whether this is of a part, or its name ends in one, with or without ".weight"."""
        if layer in PARTS:
            return self.part == layer
        return f".{self.name}".endswith((f".{layer}", f".{layer}.weight"))


def _weights(model: DualEncoder, tower: str) -> list[_Weight]:
    """Return the weights of a tower that can be adapted and are used."""
    root = model.get_submodule(tower)
    seen, used = look(model, tower), used_from(model, tower)
    parts = [
        (f"{path}.", PARTS[path not in seen.attention])
        for name, block in innermost_blocks(root)
        for path in _parts(block, name)
    ]
    fast = tuple(f"{name}." for name, module in root.named_modules() if type(module) in FAST)
    found = []
    for name, module in root.named_modules():
        part = next((part for path, part in parts if f"{name}.".startswith(path)), "")
        keys = [key for key in FUSED if module._parameters.get(key) is not None]
        if isinstance(module, PEFT_LAYERS) and getattr(module, "groups", 1) == 1:
            keys += ["weight"] * ("weight" in module._parameters)
        fits = type(module) in PEFT_LAYERS and name in seen.called and not name.startswith(fast)
        keys = [key for key in keys if f"{name}.{key}" in used]
        found += [_Weight(f"{tower}.{name}.{key}", part, fits) for key in keys]
    return found


def _parts(module: nn.Module, name: str) -> Iterator[str]:
    """Yield the names of a block's parts; containers are no parts, but what they hold."""
    for key, child in module.named_children():
        path = f"{name}.{key}"
        if type(child) in CONTAINERS:
            yield from _parts(child, path)
        else:
            yield path


def attach_lora(model: DualEncoder, settings: Mapping[str, Any]) -> None:
    """Put adapters on named weights, and note them in the model's architecture.

    Args:
        model: changed in place; only the adapters hold gradients in the towers afterwards.
        settings: `rank`, `alpha`, `dropout`, and the names of the weights of layers that are
            `called` and of weights that are `read`.

    Raises:
        ModelError: when the model has no such weight.
        MissingExtraError: without peft.
    """
    own = dict(model.named_parameters())
    for weight in (*settings["called"], *settings["read"]):
        if weight not in own:
            raise ModelError(f"LoRA: the model has no weight {weight}")
    for tower in TOWERS:
        root = model.get_submodule(tower)
        root.requires_grad_(False)
        layers = [
            name.removeprefix(f"{tower}.").removesuffix(".weight")
            for name in settings["called"]
            if name.startswith(f"{tower}.")
        ]
        if layers:
            _inject(root, layers, settings)
    for name in settings["read"]:
        module, _, key = name.rpartition(".")
        adapt(model.get_submodule(module), key, rank=settings["rank"], alpha=settings["alpha"])
    model.architecture = {**model.architecture, "lora": dict(settings)}
    model.train(model.training)


def _inject(tower: nn.Module, layers: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Have peft put its layers in the place of others."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("LoRA", "lora") from None
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules="|".join(re.escape(layer) for layer in layers),
    )
    inject_adapter_in_model(config, tower)
    del tower.peft_config
    for layer in layers:
        parts = tower.get_submodule(layer)._modules
        parts["lora_dropout"] = parts.pop("lora_dropout")  # after what trains: see `rest_frozen`


@torch.no_grad()
def merge_lora(model: DualEncoder) -> DualEncoder:
    """Fold the adapters into the weights, in place, and return the model.

    Features stay within rounding of what they were; without adapters nothing changes.
    """
    settings = model.architecture.get("lora")
    if settings is None:
        return model
    for weight in settings["called"]:
        name = weight.removesuffix(".weight")
        parent, _, key = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        layer.merge()
        setattr(model.get_submodule(parent), key, layer.get_base_layer())
    for weight in settings["read"]:
        name, _, key = weight.rpartition(".")
        module: Any = model.get_submodule(name)
        module._parameters[key].copy_(getattr(module, key))
        module.__class__ = module.lora_of
        del module.lora_weights[key]
        if not len(module.lora_weights):
            del module.lora_weights
    model.architecture = {key: v for key, v in model.architecture.items() if key != "lora"}
    return model


def split_state(model: DualEncoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a model's state without adapters, by the names it has without any, and the adapters.

    Of a weight NAME these are NAME.lora_A and NAME.lora_B. The tensors are the model's own.
    """
    settings = model.architecture.get("lora") or {"called": [], "read": []}
    state = dict(model.state_dict())
    adapters = {name: state.pop(place) for place, name in _places(settings).items()}
    layers = {name.removesuffix(".weight") for name in settings["called"]}
    base = {}
    for name, value in state.items():
        layer, _, key = name.rpartition(".base_layer.")
        base[f"{layer}.{key}" if layer in layers else name] = value
    return base, adapters


def _places(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return for the place of each adapter in the model the name it is known by."""
    places = {}
    for side in SIDES:
        for weight in settings["called"]:
            layer = weight.removesuffix(".weight")
            places[f"{layer}.{side}.default.weight"] = f"{weight}.{side}"
        for weight in settings["read"]:
            module, _, key = weight.rpartition(".")
            places[f"{module}.lora_weights.{key}.{side}"] = f"{weight}.{side}"
    return places


def lora_state(model: DualEncoder) -> dict[str, Tensor]:
    """Return a copy of the adapters: of an adapted weight NAME, NAME.lora_A and NAME.lora_B."""
    return {name: value.clone() for name, value in split_state(model)[1].items()}


def lora_parameters(model: DualEncoder) -> list[nn.Parameter]:
    """Return the parameters of the adapters."""
    places = _places(model.architecture.get("lora") or {"called": [], "read": []})
    return [model.get_parameter(place) for place in places]
