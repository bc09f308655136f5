"""Attention on a CPU, as fast as its products of matrices.

Two of PyTorch's functions take much longer there than they need. `multi_head_attention_forward`
turns batches round, and in inference in bfloat16 multiplies by a copy of the weights for each
token: half of the time of a text tower. `scaled_dot_product_attention` in bfloat16, forward and
backward, takes 2.4 to 2.9 times as long as what is here at 24 to 77 tokens, 1.3 and 1.5 times at
197 and 257 (two cores of an AMD EPYC). What is here instead has scores and softmax in float32 as
that has, keeps nothing of the size tokens x tokens for the way back, and works through the batch in
parts that fit into the cache. Dao et al. 2022, https://arxiv.org/abs/2205.14135, say how
probabilities are had again.

Processors that multiply tiles (AMX) are the exception: there PyTorch's own, forward alone, is 1.5
to 4 times as fast as what is here, and is used. Forward and backward it takes 1.9 to 3.2 times as
long at 24 to 77 tokens, and about as long at 197 and 257 (two cores of a Xeon).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, scaled_dot_product_attention

LONGEST = 320
"""Tokens above which PyTorch's own is left alone: at 577 it is faster, at 257 it is not."""
PART = 2**18
"""Probabilities that are held at once."""
ALL = slice(0, 3)
"""Of the projections of query, key and value."""

Queries = Float[Tensor, "batch heads tokens width"]
Keys = Float[Tensor, "batch heads keys width"]
Project = Callable[[Tensor, slice], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Return what `scaled_dot_product_attention` would, or none where it has to be asked."""
    sides = (query, key, value)
    usual = all(
        side.dtype == torch.bfloat16 and side.device.type == "cpu" and side.dim() == 4
        for side in sides
    )
    short = max(query.shape[-2], key.shape[-2]) <= LONGEST
    if not usual or not short or dropout_p or is_causal or enable_gqa:
        return None
    trained = torch.is_grad_enabled() and any(side.requires_grad for side in sides)
    if not trained and multiplies_tiles():
        return None
    if attn_mask is not None:
        if attn_mask.requires_grad:
            return None
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(()).masked_fill(~attn_mask, -torch.inf)
        if (attn_mask == -torch.inf).all(-1).any():  # what sees nothing is zero there, not NaN
            return None
        attn_mask = attn_mask.float().expand(*query.shape[:3], key.shape[2])
    factor = query.shape[3] ** -0.5 if scale is None else scale
    attended: Tensor = _Attention.apply(query, key, value, attn_mask, factor)
    return attended


def attend_by_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    **others: Any,
) -> tuple[Tensor, None] | None:
    """Return what `multi_head_attention_forward` would, or none where it has to be asked."""
    special = (
        need_weights
        or add_zero_attn
        or use_separate_proj_weight
        or (training and dropout_p)
        or any(given is not None for given in (bias_k, bias_v, key_padding_mask))
        or any(others.get(name) is not None for name in ("static_k", "static_v"))
    )
    if special or not can_fuse(query, key, value, attn_mask) or weight is None:
        return None

    def project(tokens: Tensor, parts: slice) -> Tensor:
        if parts == ALL:  # a slice of everything would have a gradient filled with zeros first
            return linear(tokens, weight, bias)
        rows = slice(width * parts.start, width * parts.stop)
        return linear(tokens, weight[rows], None if bias is None else bias[rows])

    attends = query.transpose(0, 1)
    seen = attends if query is key else key.transpose(0, 1)
    joined = fused_attention(attends, seen, project, attn_mask, heads)
    return linear(joined, out_weight, out_bias).transpose(0, 1), None


def multiplies_tiles() -> bool:
    """Whether the CPU has AMX."""
    return bool(torch.cpu._is_amx_tile_supported())


def can_fuse(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether `fused_attention` takes what multi-head attention was given: batches of tokens."""
    return key is value and query.dim() == 3 and (mask is None or mask.is_floating_point())


def fused_attention(
    query: Float[Tensor, "batch tokens width"],
    seen: Float[Tensor, "batch keys width"],
    project: Project,
    mask: Tensor | None,
    heads: int,
) -> Float[Tensor, "batch tokens width"]:
    """Attend, with one projection for query, key and value; the heads come joined.

    Args:
        query: tokens that attend.
        seen: what they attend to; the same tensor where they attend to each other.
        project: gives for tokens those of the three (query, key, value) that are asked for, one
            behind the other.
        mask: is added to the scores [tokens, keys], or [batch * heads, tokens, keys].
        heads: of attention.
    """
    batch, tokens, width = query.shape

    def parted(tokens: Tensor, parts: slice) -> list[Tensor]:
        projected = project(tokens, parts)
        shape = (*projected.shape[:2], -1, heads, width // heads)
        return [part.transpose(1, 2) for part in projected.view(shape).unbind(2)]

    if query is seen:
        q, k, v = parted(query, ALL)
    else:
        (q,), (k, v) = parted(query, slice(0, 1)), parted(seen, slice(1, 3))
    if mask is not None and mask.dim() == 3:
        mask = mask.view(batch, heads, tokens, -1)
    attended = attend(q, k, v, mask)  # `fast_paths`, which may be who calls, is off in here
    if attended is None:
        mask = None if mask is None else mask.to(q.dtype)
        attended = scaled_dot_product_attention(q, k, v, mask)
    return attended.transpose(1, 2).reshape(batch, tokens, width)


class _Attention(torch.autograd.Function):
    """softmax(scale q k' + mask) v."""

    @staticmethod
    def forward(
        ctx: Any, query: Queries, key: Keys, value: Keys, mask: Tensor | None, scale: float
    ) -> Queries:
        """Return the values, weighted; laid out so that joining the heads moves nothing."""
        batch, heads, tokens, _ = query.shape
        attended = value.new_empty(batch, tokens, heads, value.shape[3]).transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            for part in _parts(query, key):
                weights = _weights(query, key, mask, scale, part)
                attended[part] = weights.to(value.dtype) @ value[part]
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Queries) -> tuple[Tensor | None, ...]:
        """Compute the weights once more and hand the gradient on."""
        query, key, value, mask = ctx.saved_tensors
        of_query, of_key, of_value = (torch.empty_like(side) for side in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            for part in _parts(query, key):
                weights = _weights(query, key, mask, ctx.scale, part)
                given = gradient[part]
                of_value[part] = weights.to(value.dtype).transpose(2, 3) @ given
                of_weights = (given @ value[part].transpose(2, 3)).float()
                mean = (of_weights * weights).sum(3, keepdim=True)
                of_scores = (weights * (of_weights - mean) * ctx.scale).to(query.dtype)
                of_query[part] = of_scores @ key[part]
                of_key[part] = of_scores.transpose(2, 3) @ query[part]
        return of_query, of_key, of_value, None, None


def _parts(query: Tensor, key: Tensor) -> Iterator[slice]:
    """Yield slices of the batch."""
    batch, heads, tokens, _ = query.shape
    size = max(1, PART // max(1, heads * tokens * key.shape[2]))
    return (slice(start, start + size) for start in range(0, batch, size))


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, part: slice) -> Tensor:
    """Return the probabilities of a part of the batch, in float32."""
    scores = query[part].float() @ key[part].float().transpose(2, 3)
    scores *= scale
    if mask is not None:
        scores += mask[part]
    return scores.softmax(3)
