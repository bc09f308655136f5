"""What PyTorch computes on a CPU in much more time than its products of matrices take.

Towers of any library call PyTorch's functions; inside `fast_paths` those that are known get another
way to the same, wherever it is the same.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from clipkit.models.attention import attend, attend_by_heads
from clipkit.models.patches import project_patches

INSTEAD: dict[Any, Callable[..., Any]] = {
    scaled_dot_product_attention: attend,
    multi_head_attention_forward: attend_by_heads,
    torch.conv2d: project_patches,
}
"""Each takes what the function takes, and gives none where that has to be asked."""


def fast_paths(device: torch.device) -> AbstractContextManager[Any]:
    """Return what to enter while towers compute on a device."""
    return _FastPaths() if device.type == "cpu" else nullcontext()


class _FastPaths(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        instead = INSTEAD.get(func)
        found = None if instead is None else instead(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is None else found
