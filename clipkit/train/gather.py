"""Negatives from all processes, with their gradient."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.nn.functional import all_gather

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
    """Join the features of all processes.

    Each process then computes the loss of the whole batch. The backward pass of the gather sums
    over processes and Accelerate averages the parameters' gradients over them, which together give
    the gradient of one process with the whole batch, for the logit scale as well.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return GatheredBatch(image_features, text_features, batch.image_keys, batch.text_keys)
    keys = torch.stack([batch.image_keys, batch.text_keys])
    parts = [torch.empty_like(keys) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, keys)
    image_keys, text_keys = torch.cat(parts, dim=1)
    return GatheredBatch(
        torch.cat(all_gather(image_features)),
        torch.cat(all_gather(text_features)),
        image_keys,
        text_keys,
    )
