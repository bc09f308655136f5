"""The low-rank change of a weight that is read, and modules that compute with it.

Whoever reads the weight sees the sum of what it was and of the change. In training the layers that
are known go by way of what is low in rank instead, since the gradient of the sum is as large as
that of the weight, which does not train.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from clipkit.errors import ModelError
from clipkit.models.attention import can_fuse, fused_attention


class LowRank(nn.Module):
    """Adds `alpha / rank * B A` to a weight; B starts at zero, so that nothing changes at first.

    Args:
        weight: what is adapted; it is not kept.
        rank: of the change.
        alpha: see above.
        parts: weights that lie in `weight` one below the other (q, k and v), each with its own A
            and B.
    """

    def __init__(self, weight: Tensor, *, rank: int, alpha: float, parts: int = 1) -> None:
        """Draw A as `nn.Linear` draws its weight."""
        super().__init__()
        rows, columns = weight.shape[0] // parts, weight[0].numel()
        device = weight.device
        self.lora_A = nn.Parameter(torch.empty(parts, rank, columns, device=device))
        self.lora_B = nn.Parameter(torch.zeros(parts, rows, rank, device=device))
        for part in self.lora_A:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))
        self.scaling = alpha / rank

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the adapted weight."""
        change = self.scaling * torch.bmm(self.lora_B, self.lora_A)
        return weight + change.reshape(weight.shape).to(weight.dtype)

    def change(self, inputs: Float[Tensor, "*batch columns"], parts: slice) -> Tensor:
        """Return by how much the outputs of a linear layer change, which has some of the parts.

        Unlike `forward`, this asks for no gradient of the size of the weight.
        """
        low = linear(inputs, self.lora_A[parts].flatten(0, 1))
        return self.scaling * linear(low, torch.block_diag(*self.lora_B[parts]))


def adapt(module: nn.Module, name: str, *, rank: int, alpha: float) -> None:
    """Make an attribute of a module the adapted weight; the parameter keeps its name and place.

    Args:
        module: changed in place; its class becomes one of its own, `lora_of` what it was.
        name: of the weight.
        rank: of the change.
        alpha: the change is scaled by alpha / rank.

    Raises:
        ModelError: when the module has no such weight.
    """
    weight = module._parameters[name]
    if weight is None or not isinstance(weight, Tensor):
        raise ModelError(f"LoRA: {type(module).__name__} has no weight {name}")
    parts = 3 if name == "in_proj_weight" else 1
    low_rank = LowRank(weight, rank=rank, alpha=alpha, parts=parts)
    if "lora_weights" in module._modules:
        module.get_submodule("lora_weights").add_module(name, low_rank)
    else:
        module.lora_weights = nn.ModuleDict({name: low_rank})

    def adapted(self: nn.Module) -> Tensor:
        found: Tensor = self._modules["lora_weights"][name](self._parameters[name])  # type: ignore[index]
        return found

    kind = type(module)
    methods: dict[str, Any] = {name: property(adapted), "lora_of": kind}
    if name == "in_proj_weight" and kind is nn.MultiheadAttention:
        methods["forward"] = _attend
    if name == "weight" and kind.forward is nn.Linear.forward:
        methods["forward"] = _apply_linear
    module.__class__ = type(kind.__name__, (kind,), methods)


def _apply_linear(layer: Any, inputs: Tensor) -> Tensor:
    """Be a linear layer whose weight is adapted; in training by way of what is low in rank."""
    if not layer.training:
        return linear(inputs, layer.weight, layer.bias)
    adapter: LowRank = layer.lora_weights["weight"]
    outputs = linear(inputs, layer._parameters["weight"], layer.bias)
    return outputs + adapter.change(inputs, slice(1))


def _attend(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, *more: Any, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """Be attention whose `in_proj_weight` is adapted; in training by way of what is low in rank."""
    mask = settings.get("attn_mask")
    special = (
        more
        or settings.get("need_weights", True)
        or settings.get("key_padding_mask") is not None
        or settings.get("is_causal")
        or attention.dropout
        or attention.add_zero_attn
        or attention.bias_k is not None
        or not attention.batch_first
    )
    if not attention.training or special or not can_fuse(query, key, value, mask):
        found: tuple[Tensor, Tensor | None]
        found = nn.MultiheadAttention.forward(attention, query, key, value, *more, **settings)
        return found
    weight, bias = attention._parameters["in_proj_weight"], attention.in_proj_bias
    adapter: LowRank = attention.lora_weights["in_proj_weight"]

    def project(tokens: Tensor, parts: slice) -> Tensor:
        rows = slice(attention.embed_dim * parts.start, attention.embed_dim * parts.stop)
        outputs = linear(tokens, weight[rows], None if bias is None else bias[rows])
        return outputs + adapter.change(tokens, parts)

    joined = fused_attention(query, key, project, mask, attention.num_heads)
    return attention.out_proj(joined), None
