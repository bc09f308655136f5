"""How far a tower's parameters are from its output, told by running it once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.structure import TowerName, innermost_blocks, run_once


def levels_from_output(model: DualEncoder, tower: TowerName) -> dict[str, int]:
    """Return for each parameter of a tower how many blocks lie between it and the output.

    The tower's n blocks (see `structure.innermost_blocks`; those of its stages where it has stages)
    are at levels n to 1, the last one at 1. What is in no block is told by when it is first used:
    before the first block (embeddings, a stem) it is at n + 1; between two blocks (where stages
    shrink the picture) at the level of the second; after the last block (a norm, pooling) at 0, and
    so are parameters that are never used. A tower without blocks is at 0 as a whole.

    Returns:
        Levels by names relative to the tower.
    """
    root = model.get_submodule(tower)
    named = dict(root.named_parameters())
    blocks = innermost_blocks(root)
    if not blocks:
        return dict.fromkeys(named, 0)
    first_used = _first_used(model, tower, [block for _, block in blocks])
    levels = {name: first_used.get(id(parameter), 0) for name, parameter in named.items()}
    for at, (path, block) in enumerate(blocks):
        inside = (name for name, _ in block.named_parameters(prefix=path) if name in levels)
        levels.update(dict.fromkeys(inside, len(blocks) - at))
    return levels


def _first_used(model: DualEncoder, tower: TowerName, blocks: list[nn.Module]) -> dict[int, int]:
    """Run a tower; return at which level each parameter is first computed with, by its id."""
    level = len(blocks) + 1
    found: dict[int, int] = {}

    class Uses(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func.__name__ != "__get__" or isinstance(result, Tensor):  # its dtype is no use
                for parameter in _parameters((args, kwargs)):
                    found.setdefault(id(parameter), level)
            return result

    def set_level(value: int) -> Any:
        def hook(*_: Any) -> None:
            nonlocal level
            level = value

        return hook

    handles: list[Any] = []
    for at, block in enumerate(blocks):
        handles += [block.register_forward_pre_hook(set_level(len(blocks) - at))]
        handles += [block.register_forward_hook(set_level(len(blocks) - at - 1))]
    try:
        with torch.no_grad(), Uses():
            run_once(model, tower)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _parameters(value: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters in a nest of arguments."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parameters(item)
    elif isinstance(value, dict):
        yield from _parameters(list(value.values()))
