"""The losses of rows in all their settings, called alike, for what they all owe."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from clipkit.losses import (
    HardestNegativeLoss,
    MoCoLoss,
    NTXentLoss,
    Share,
    SupConLoss,
    TripletLoss,
)
from clipkit.losses.triplet import MINERS
from tests.losses.pairs import BATCH, IMAGES, MODES, positives

LABELS = [4, 7, 4, -1, 7, 7, -1, 2]  # the last one is alone in its class
DIM = 5
WRITTEN = 6  # of a queue of 9

Call = Callable[..., Tensor]
"""first, second, scale, bias and `share` to a loss."""


def labels() -> Tensor:
    return torch.tensor(LABELS)


def queued() -> tuple[Tensor, Tensor]:
    """Keys of earlier batches and their content, some of which is in the batch too."""
    generator = torch.Generator().manual_seed(4)
    keys = torch.randn(WRITTEN, DIM, generator=generator, dtype=torch.float64)
    return keys, torch.tensor([20, IMAGES[0], 21, IMAGES[3], IMAGES[0], 22])


def moco(chunk_size: int, *, batch_negatives: bool = False, dtype: torch.dtype) -> MoCoLoss:
    """A loss whose queue of 9 has 6 keys in it."""
    loss = MoCoLoss(
        dim=DIM, queue_size=9, batch_negatives=batch_negatives, chunk_size=chunk_size
    ).to(dtype)
    loss.enqueue(*queued())
    return loss


def _cases() -> dict[str, Callable[[int, torch.dtype], Call]]:
    """What makes a loss for a size of chunks and a dtype, by what it is called in tests."""
    found: dict[str, Callable[[int, torch.dtype], Call]] = {}

    def add(name: str, make: Callable[..., Call], fifth: object, *, views: int = 2) -> None:
        def made(chunk_size: int, dtype: torch.dtype) -> Call:
            return called(make(chunk_size=chunk_size, dtype=dtype), fifth, views)

        found[name] = made

    for mode in MODES:
        add(f"ntxent-{mode}", _plain(NTXentLoss), positives(mode))
        add(f"hardest_negative-{mode}", _plain(HardestNegativeLoss, margin=0.7), positives(mode))
        for also in (False, True):
            add(f"moco-{mode}-{also}", partial(moco, batch_negatives=also), positives(mode))
    for mining in MINERS:
        for distance in ("squared", "euclidean"):
            make = _plain(TripletLoss, margin=0.9, mining=mining, distance=distance)
            add(f"triplet-{mining}-{distance}", make, labels())
    for views in (1, 2):
        add(f"supcon-{views}", _plain(SupConLoss), labels(), views=views)
    add("triplet-1", _plain(TripletLoss, margin=0.9), labels(), views=1)
    return found


def _plain(kind: Callable[..., Call], **settings: object) -> Callable[..., Call]:
    """A loss that holds nothing, and so has no dtype."""

    def make(chunk_size: int, dtype: torch.dtype) -> Call:
        return kind(chunk_size=chunk_size, **settings)

    return make


def called(loss: Call, fifth: object, views: int) -> Call:
    """Say which rows belong together, and show one view or both."""

    def call(
        first: Tensor, second: Tensor, scale: Tensor, bias: Tensor, share: Share | None = None
    ) -> Tensor:
        return loss(first, second if views == 2 else None, scale, bias, fifth, share=share)

    return call


CASES = _cases()
assert len(LABELS) == BATCH
