"""What a tower is made of: told by its structure and by running it once, not by names of models."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipkit.models.dual_encoder import DualEncoder

TowerName = Literal["image_tower", "text_tower"]
TOWERS: tuple[TowerName, ...] = ("image_tower", "text_tower")
CONTAINERS = (nn.Sequential, nn.ModuleList)
SOFTMAX = {
    nn.functional.scaled_dot_product_attention,
    nn.functional.multi_head_attention_forward,
    nn.functional.softmax,
    torch.softmax,
    torch.Tensor.softmax,
}
"""A part of a block in which one of these is computed is its attention."""

Named = list[tuple[str, nn.Module]]


def find_blocks(tower: nn.Module) -> Named:
    """Return the blocks that a tower repeats, with their names, in their order.

    Blocks are what `nn.Sequential`s and `nn.ModuleList`s hold of the one type that has the most
    parameters, and what stands in a row with them or in a row between theirs: of a ViT or BERT its
    layers, of a ResNet its residual blocks, of ConvNeXt or Swin the stages. A block may repeat
    smaller ones inside.
    """
    members = list(_members(tower, "", "." if type(tower) in CONTAINERS else ""))
    counts = Counter(type(module) for _, _, module in members)
    sizes: Counter[type[nn.Module]] = Counter()
    for _, _, module in members:
        if counts[type(module)] > 1:
            sizes[type(module)] += sum(p.numel() for p in module.parameters())
    if not sizes:
        return []
    kind = sizes.most_common(1)[0][0]
    rows = list(dict.fromkeys(row for row, _, _ in members))
    at = [rows.index(row) for row, _, module in members if type(module) is kind]
    owner = rows[at[0]].rpartition(".")[0]
    between = {row for row in rows[at[0] : at[-1] + 1] if row.rpartition(".")[0] == owner}
    return [(name, module) for row, name, module in members if row in between]


def _members(module: nn.Module, name: str, row: str) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what rows hold: the outermost row's name, the member's, and the member."""
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if type(child) in CONTAINERS:
            yield from _members(child, path, row or path)
        elif row and _is_made_of_layers(child):
            yield row, path, child
        else:
            yield from _members(child, path, "")


def _is_made_of_layers(module: nn.Module) -> bool:
    """Tell a block from a single layer, which may have adapters beside its `base_layer`."""
    layers = any(True for _ in module.children()) and not hasattr(module, "base_layer")
    return layers and any(True for _ in module.parameters())


def innermost_blocks(tower: nn.Module) -> Named:
    """Return the blocks that repeat no smaller ones: those of the stages where there are stages."""
    found: Named = []
    for name, block in find_blocks(tower):
        inner = [(f"{name}.{path}", module) for path, module in innermost_blocks(block)]
        found += inner or [(name, block)]
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of a tower shows, by module names relative to the tower.

    Attributes:
        called: modules whose `forward` was called; of others the weights are read, if anything.
        attention: modules in which a softmax over positions was computed.
    """

    called: set[str]
    attention: set[str]


def look(model: DualEncoder, tower: str) -> Seen:
    """Run a tower once, in evaluation mode, and tell what its modules do."""
    seen = Seen(set(), set())
    stack: list[str] = []

    class Softmaxes(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in SOFTMAX:
                seen.attention.update(stack)
            return func(*args, **(kwargs or {}))

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            stack.append(name)
            seen.called.add(name)

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    handles: list[Any] = []
    for name, module in model.get_submodule(tower).named_modules():
        handles += [module.register_forward_pre_hook(enter(name))]
        handles += [module.register_forward_hook(leave)]
    try:
        with torch.no_grad(), Softmaxes():
            run_once(model, tower)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def used_from(model: DualEncoder, tower: str, block: nn.Module | None = None) -> set[str]:
    """Return the names of a tower's parameters in or after a block, relative to the tower; or all.

    They are those that a gradient reaches when what enters the block is cut off. Parameters that
    nothing is computed with (an unused pooler) are not among them.
    """
    named = dict(model.get_submodule(tower).named_parameters())
    required = {name: parameter.requires_grad for name, parameter in named.items()}
    first = nn.Identity() if block is None else block
    handle = first.register_forward_pre_hook(
        lambda _, args, kwargs: (_detached(args), _detached(kwargs)), with_kwargs=True
    )
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            features = run_once(model, tower)
            gradients = torch.autograd.grad(features.sum(), list(named.values()), allow_unused=True)
    finally:
        handle.remove()
        for name, parameter in named.items():
            parameter.requires_grad_(required[name])
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def _detached(value: Any) -> Any:
    """Cut every tensor in a nest of arguments off the graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    if type(value) is dict:
        return {key: _detached(item) for key, item in value.items()}
    return value


def run_once(model: DualEncoder, tower: str) -> Float[Tensor, "1 dim"]:
    """Encode one blank image or one short text, in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        if tower == "image_tower":
            size = model.preprocessing.size
            return model.encode_image(torch.zeros(1, 3, size, size, device=model.device))
        tokens = {name: value.to(model.device) for name, value in model.tokenize(["a"]).items()}
        return model.encode_text(tokens)
    finally:
        model.train(was_training)
