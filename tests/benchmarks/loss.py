"""The symmetric loss alone, forward and backward, by batch size: in time and in memory.

open_clip's, clipkit's, and sentence-transformers' cached one, on features at hand. What is above
the memory held before is the loss's own. Values and gradients are compared. A batch whose matrices
would not fit in half of the memory is left to those that do not build them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_for_scale
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

DIM, SCALE, SMALL, ROWS = 512, 30.0, 64, 1024
MATRICES = 5
"""Of batch x batch, that open_clip's holds at once."""


def run(bench: Bench) -> None:
    """Race, size by size."""
    for device in bench.devices:
        sizes = bench.pick((2048,), (1024, 4096, 16384), (1024, 4096, 16384, 32768, 65536))
        for batch in sizes:
            fits = MATRICES * 4 * batch**2 < psutil.virtual_memory().total / 2
            who = {
                "open_clip": "by_open_clip",
                "sentence-transformers, cached": "by_sentence_transformers",
                "clipkit": "by_clipkit",
            }
            bench.race(
                f"loss alone, batch {batch}{libraries.on(device)}",
                [
                    Contender(
                        name,
                        f"loss:{one}",
                        {"batch": batch, "device": device},
                        imports=libraries.IMPORTS[name.partition(",")[0]],
                        device=device,
                    )
                    for name, one in who.items()
                    if fits or name != "open_clip"
                ],
                amount=batch,
                unit="pairs",
                compare=same_for_scale(1e-3),
                rounds=bench.pick(1, 3 if batch > 8192 else 5),
                warm=batch <= 8192,
            )


def stepping(loss: "Loss", batch: int, device: str) -> Work:
    """Return the work of going forward and backward once."""
    import torch
    from torch.nn.functional import normalize

    def inputs(size: int) -> "list[Tensor]":
        generator = torch.Generator().manual_seed(0)
        common, image, text = torch.randn(3, size, DIM, generator=generator)
        sides = (normalize(common + 3 * side, dim=1).to(device) for side in (image, text))
        return [side.requires_grad_() for side in sides]

    def step(given: "list[Tensor]") -> "dict[str, np.ndarray]":
        images, texts = given
        images.grad = texts.grad = None
        value = loss(images, texts, torch.tensor(SCALE, device=device))
        if value.requires_grad:  # else it has gone backward itself, chunk by chunk
            value.backward()
        found = {"value": value.detach(), "images": images.grad, "texts": texts.grad}
        return {name: one.cpu().numpy() for name, one in found.items() if one is not None}

    step(inputs(SMALL))
    given = inputs(batch)
    flops = 3 * 2.0 * batch**2 * DIM  # the scores, and both gradients from them
    return Work(lambda: step(given), flops=flops)


def by_open_clip(batch: int, device: str) -> Work:
    """Its `ClipLoss`."""
    from open_clip.loss import ClipLoss

    return stepping(ClipLoss(), batch, device)


def by_clipkit(batch: int, device: str) -> Work:
    """Its `ClipLoss`, whose positives are found by content."""
    import torch

    from clipkit.losses import ClipLoss, Positives

    loss = ClipLoss()

    def value(images: "Tensor", texts: "Tensor", scale: "Tensor") -> "Tensor":
        keys = torch.arange(len(images), device=device)
        found: Tensor = loss(images, texts, scale, None, Positives(keys, keys))
        return found

    return stepping(value, batch, device)


def by_sentence_transformers(batch: int, device: str) -> Work:
    """The loss in its `CachedMultipleNegativesRankingLoss`, both ways, some rows at a time."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score
    from torch import nn

    loss = CachedMultipleNegativesRankingLoss(
        nn.Sequential(nn.Identity()),
        scale=SCALE,
        similarity_fct=dot_score,  # features have length 1 already, as the others take them
        mini_batch_size=ROWS,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )

    def value(images: "Tensor", texts: "Tensor", scale: "Tensor") -> "Tensor":
        # As its `forward` asks for it, which goes backward here too.
        sides = [list(side.split(ROWS)) for side in (images, texts)]
        found: Tensor = loss.calculate_loss(sides, with_backward=True)
        return found.detach()

    return stepping(value, batch, device)
