"""Exact gradients of a batch that is larger than memory allows to hold the graph of.

Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): all features are computed
without a graph, the loss gives their gradient, and each micro-batch then passes through the model
once more to hand it on. The logit scale and bias are leaves of their own, whose gradient arrives
once, whatever the number of micro-batches. Dropout is repeated by seeding chance again.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import PairBatch, Part
from clipkit.train.chance import seed_chance
from clipkit.train.gather import process_count

Outputs = tuple[
    Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, ""], Float[Tensor, ""]
]


class Pairs(nn.Module):
    """One forward pass over both sides, so that Accelerate wraps the model as a whole."""

    def __init__(self, model: DualEncoder, *, cached_images: bool) -> None:
        """Keep the model, and whether images come as features of its frozen tower."""
        super().__init__()
        self.model = model
        self.cached_images = cached_images

    def forward(self, images: Tensor, texts: Tensor | dict[str, Tensor]) -> Outputs:
        """Return image features, text features, the logit scale, and the bias or zero."""
        model = self.model
        encode = model.project_image if self.cached_images else model.encode_image
        image_features = encode(images)
        text_features = (
            model.project_text(texts) if isinstance(texts, Tensor) else model.encode_text(texts)
        )
        scale, bias = model.logit_scale, model.logit_bias
        # A copy: what wraps the model for several processes looks for operations on parameters.
        bias = torch.zeros_like(scale) if bias is None else bias.clone()
        return image_features, text_features, scale, bias


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the loss of the whole batch.

    Attributes:
        image_features: of this process's images.
        text_features: of this process's texts.
        logit_scale: whole, the same in each process.
        logit_bias: likewise; `None` where the model has no bias.
    """

    image_features: Float[Tensor, "rows dim"]
    text_features: Float[Tensor, "rows dim"]
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None


class GradCache:
    """Passes a batch through the model in two steps: `encode`, then `backward`.

    Args:
        accelerator: of Accelerate.
        pairs: the model as it is.
        wrapped: the model as Accelerate wrapped it.
        micro_batch_size: pairs that pass through the model at once, of each process; all of them
            when `None`, and then the model sees them once.
    """

    def __init__(
        self, accelerator: Any, pairs: Pairs, wrapped: nn.Module, *, micro_batch_size: int | None
    ) -> None:
        """Keep the model."""
        self.accelerator = accelerator
        self.pairs = pairs
        self.wrapped = wrapped
        self.micro_batch_size = micro_batch_size
        self._parts: list[Part] = []
        self._outputs: Outputs | None = None
        self._moment: tuple[int, ...] = ()

    def encode(
        self, batch: PairBatch, *, moment: tuple[int, ...]
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]]:
        """Return the image and text features of this process's share of a batch.

        Args:
            batch: the share.
            moment: numbers that chance is a function of.
        """
        self._moment = moment
        self._parts = batch.parts(self.pairs.model, self.micro_batch_size)
        if len(self._parts) == 1:
            self._outputs = self._forward(self.wrapped, 0)
            return self._outputs[0].detach(), self._outputs[1].detach()
        with torch.no_grad():
            features = [self._forward(self.pairs, at)[:2] for at in range(len(self._parts))]
        return torch.cat([images for images, _ in features]), torch.cat([t for _, t in features])

    def backward(
        self, gradients: Gradients, *, extra: Callable[[], Float[Tensor, ""]] | None = None
    ) -> Float[Tensor, ""]:
        """Add the gradient of every parameter, averaged over processes by Accelerate.

        Args:
            gradients: of the loss of the whole batch.
            extra: a further loss of this process's pairs, of the parameters themselves.

        Returns:
            What `extra` gave, or zero.
        """
        further = torch.zeros_like(gradients.logit_scale)
        processes = process_count()  # Accelerate averages what is the sum of the processes' shares
        image_parts = self._split(gradients.image_features * processes)
        text_parts = self._split(gradients.text_features * processes)
        for at in range(len(self._parts)):
            last = at == len(self._parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                images, texts, scale, bias = self._outputs or self._forward(self.wrapped, at)
                total = (images * image_parts[at]).sum() + (texts * text_parts[at]).sum()
                if last:
                    total = total + scale * gradients.logit_scale
                    if gradients.logit_bias is not None:
                        total = total + bias * gradients.logit_bias
                    if extra is not None:
                        seed_chance(*self._moment, len(self._parts))
                        further = extra()
                        total = total + further
                self.accelerator.backward(total)
        self._outputs, self._parts = None, []
        return further.detach()

    def _forward(self, module: nn.Module, at: int) -> Outputs:
        """Pass a part through the model, with the chance that belongs to it."""
        images, texts = self._parts[at].on_device(self.pairs.model)
        seed_chance(*self._moment, at)
        with self.accelerator.autocast():
            outputs: Outputs = module(images, texts)
        return outputs

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cut rows as the batch was cut."""
        split: tuple[Tensor, ...] = rows.split([len(part.images) for part in self._parts])
        return split
