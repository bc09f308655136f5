"""What all processes hold of a batch, in every one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.losses import Share


@dataclass(frozen=True, slots=True)
class Gathered:
    """The batch of all processes, rank after rank; the same in each of them.

    Attributes:
        features: of each kind that was given, all rows.
        keys: whole numbers that come with each row.
        mine: which of the rows are this process's.
        signal: the largest of the numbers that the processes passed on.
        share: this process's share of what is to be worked out; `None` when it is alone.
    """

    features: tuple[Float[Tensor, "batch _"], ...]
    keys: Int[Tensor, "batch _"]
    mine: slice
    signal: int
    share: Share | None


def gather_rows(
    features: Sequence[Float[Tensor, "rows _"]], keys: Int[Tensor, "rows _"], *, signal: int = 0
) -> Gathered:
    """Join the rows of all processes, which may hold different numbers of them.

    Args:
        features: without a graph: what is worked out with them has one of its own.
        keys: whole numbers of each row.
        signal: a number for all to know the largest of.
    """
    detached = tuple(some.detach() for some in features)
    if process_count() == 1:
        return Gathered(detached, keys, slice(0, len(keys)), signal, None)
    rank, count = dist.get_rank(), dist.get_world_size()
    told = torch.tensor([len(keys), signal], device=keys.device)
    heard = [torch.empty_like(told) for _ in range(count)]
    dist.all_gather(heard, told)
    counts, signals = torch.stack(heard).T.tolist()  # the host waits for the device
    start = sum(counts[:rank])
    return Gathered(
        tuple(_all_rows(some, counts) for some in detached),
        _all_rows(keys, counts),
        slice(start, start + counts[rank]),
        max(signals),
        Share(rank=rank, count=count, total=_total),
    )


def spoilt_rows(gathered: Gathered, rows: Int[Tensor, " batch"]) -> list[int]:
    """Return the rows of the data whose features, of the first two kinds, are no numbers.

    Args:
        gathered: a batch.
        rows: of the data, that it is of.
    """
    first, second = gathered.features[:2]
    bad = ~(first.isfinite().all(1) & second.isfinite().all(1))
    return sorted({int(row) for row in rows[bad.to(rows.device)]})


def process_count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _total(values: Tensor) -> Tensor:
    """Sum over processes."""
    total = values.contiguous().clone()  # collectives read memory, not strides
    dist.all_reduce(total)
    return total


def _all_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Put the rows of all processes together; what is sent must have one shape everywhere."""
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), rows.shape[1])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
