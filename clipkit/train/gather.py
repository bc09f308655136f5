"""Negatives from all processes, with their gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.train.batches import PairBatch


@dataclass(frozen=True, slots=True)
class GatheredBatch:
    """The batch of all processes, rank after rank."""

    image_features: Float[Tensor, "batch dim"]
    text_features: Float[Tensor, "batch dim"]
    image_keys: Int[Tensor, " batch"]
    text_keys: Int[Tensor, " batch"]


def gather_batch(
    image_features: Float[Tensor, "batch dim"],
    text_features: Float[Tensor, "batch dim"],
    batch: PairBatch,
) -> GatheredBatch:
    """Join the features of all processes, which may hold different numbers of rows.

    Each process then computes the loss of the whole batch. The backward pass of the gather sums
    over processes and Accelerate averages the parameters' gradients over them, which together give
    the gradient of one process with the whole batch, for the logit scale as well.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return GatheredBatch(image_features, text_features, batch.image_keys, batch.text_keys)
    count = dist.get_world_size()
    sizes = [torch.empty_like(_size(image_features)) for _ in range(count)]
    dist.all_gather(sizes, _size(image_features))
    counts = [int(size) for size in sizes]  # the host waits for the device
    keys = torch.stack([batch.image_keys, batch.text_keys], dim=1)
    parts = [keys.new_empty(max(counts), 2) for _ in range(count)]
    dist.all_gather(parts, _padded(keys, max(counts)))
    image_keys, text_keys = _joined(parts, counts).unbind(dim=1)
    features = torch.cat([image_features, text_features], dim=1)
    gathered: Tensor = _Gather.apply(features, counts)
    images, texts = gathered.split([image_features.shape[1], text_features.shape[1]], dim=1)
    return GatheredBatch(images, texts, image_keys, text_keys)


class _Gather(torch.autograd.Function):
    """Joins the rows of all processes; backward, each gets the sum of its rows' gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        parts = [rows.new_empty(max(counts), rows.shape[1]) for _ in counts]
        dist.all_gather(parts, _padded(rows, max(counts)))
        return _joined(parts, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()  # collectives read memory, not strides
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None


def _size(rows: Tensor) -> Tensor:
    return torch.tensor(len(rows), device=rows.device)


def _padded(rows: Tensor, length: int) -> Tensor:
    """Add rows of zeros: what is gathered must have one shape everywhere."""
    padding = rows.new_zeros(length - len(rows), rows.shape[1])
    return torch.cat([rows, padding])


def _joined(parts: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Put the rows of all processes together, without what they were padded with."""
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
