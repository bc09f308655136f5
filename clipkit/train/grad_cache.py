"""Exact gradients of a batch that is larger than memory allows to hold the graph of.

Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): all features are computed
without a graph, the loss gives their gradient, and each micro-batch then passes through the model
once more to hand it on; but for the last, whose graph is kept while the loss is computed, since
memory is there for one. The logit scale and bias are leaves of their own, whose gradient arrives
once, whatever the number of micro-batches. Dropout is repeated by seeding chance again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.data.preprocess import normalize
from clipkit.models.dual_encoder import DualEncoder, project_features
from clipkit.models.fast_paths import fast_paths
from clipkit.train.batches import PairBatch, Part
from clipkit.train.chance import seed_chance
from clipkit.train.gather import process_count
from clipkit.train.view_batches import ViewBatch, ViewPart
from clipkit.train.view_term import ViewGradients, ViewTerm
from clipkit.types import Preprocessing


class Features(NamedTuple):
    """Of a batch or a part of it; `None` where it has nothing of the kind.

    Attributes:
        images: of the pictures of pairs.
        texts: of their captions.
        first: of the first views.
        second: of the second views; `None` also where a copy of the tower sees them.
    """

    images: Float[Tensor, "batch dim"] | None
    texts: Float[Tensor, "batch dim"] | None
    first: Float[Tensor, "views _"] | None = None
    second: Float[Tensor, "views _"] | None = None


Outputs = tuple[Features, Float[Tensor, ""], Float[Tensor, ""]]


class Pairs(nn.Module):
    """One forward pass over all sides, so that Accelerate wraps the model as a whole.

    Args:
        model: what trains.
        cached_images: whether images of pairs come as features of its frozen tower.
        views: the image-image term of the run.
    """

    def __init__(
        self, model: DualEncoder, *, cached_images: bool, views: ViewTerm | None = None
    ) -> None:
        """Keep the model, and the head of the views, which trains with it."""
        super().__init__()
        self.model = model
        self.cached_images = cached_images
        self.view_head = None if views is None else views.head

    def forward(
        self,
        images: Tensor | None,
        texts: Tensor | dict[str, Tensor] | None,
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> Outputs:
        """Return the features of what is given, the logit scale, and the bias or zero."""
        model = self.model
        image_features = text_features = None
        with fast_paths(model.device):
            if images is not None:
                encode = model.project_image if self.cached_images else model.encode_image
                image_features = encode(images)
            if texts is not None:
                text_features = (
                    model.project_text(texts)
                    if isinstance(texts, Tensor)
                    else model.encode_text(texts)
                )
            views = self._views(first, second)
        scale, bias = model.logit_scale, model.logit_bias
        # A copy: what wraps the model for several processes looks for operations on parameters.
        bias = torch.zeros_like(scale) if bias is None else bias.clone()
        return Features(image_features, text_features, *views), scale, bias

    def _views(
        self, first: Tensor | None, second: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the features of views, which pass through the tower together."""
        if first is None:
            return None, None
        shown = first if second is None else torch.cat([first, second])
        head = self.model.image_projection if self.view_head is None else self.view_head
        features = project_features(head, self.model.image_tower(shown))
        if second is None:
            return features, None
        return features[: len(first)], features[len(first) :]


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
        micro_batch_size: pairs, and pictures with two views, that pass through the model at once,
            of each process; all of them when `None`, and then the model sees them once.
        views: the image-image term of the run.
    """

    def __init__(
        self,
        accelerator: Any,
        pairs: Pairs,
        wrapped: nn.Module,
        *,
        micro_batch_size: int | None,
        views: ViewTerm | None = None,
    ) -> None:
        """Keep the model."""
        self.accelerator = accelerator
        self.pairs = pairs
        self.wrapped = wrapped
        self.micro_batch_size = micro_batch_size
        self.views = views
        self._parts: list[tuple[Part | None, ViewPart | None]] = []
        self._outputs: Outputs | None = None
        self._moment: tuple[int, ...] = ()

    def encode(
        self, batch: PairBatch | None, views: ViewBatch | None = None, *, moment: tuple[int, ...]
    ) -> Features:
        """Return the features of this process's share of a batch.

        Args:
            batch: the share of the pairs.
            views: that of the views.
            moment: numbers that chance is a function of.
        """
        self._moment = moment
        size, model = self.micro_batch_size, self.pairs.model
        pairs = [] if batch is None else batch.parts(model, size)
        self._parts = list(zip_longest(pairs, [] if views is None else views.parts(size)))
        last = len(self._parts) - 1
        with torch.no_grad():
            features = [self._forward(self.pairs, at)[0] for at in range(last)]
        with self._unless(last == 0):
            self._outputs = self._forward(self.wrapped, last)
        features.append(Features(*(f if f is None else f.detach() for f in self._outputs[0])))
        joined = Features(*map(_joined, zip(*features, strict=True)))
        keys = self._keys()
        return joined if keys is None else joined._replace(second=keys)

    def _keys(self) -> Float[Tensor, "views _"] | None:
        """Return what the slow copy of the tower makes of second views, where there is one."""
        if self.views is None or self.views.keys is None:
            return None
        found = []
        for at, (_, part) in enumerate(self._parts):
            if part is not None:
                seed_chance(*self._moment, len(self._parts) + 1 + at)
                images = normalize(part.second.to(self.pairs.model.device), self._preprocessing)
                with self.accelerator.autocast():
                    found.append(self.views.encode_keys(images))
        return _joined(found)

    def backward(
        self,
        gradients: Gradients | None,
        views: ViewGradients | None = None,
        *,
        extra: Callable[[], Float[Tensor, ""]] | None = None,
    ) -> Float[Tensor, ""]:
        """Add the gradient of every parameter, averaged over processes by Accelerate.

        Args:
            gradients: of the loss of the pairs of the whole batch.
            views: of that of its views.
            extra: a further loss of this process's pairs, of the parameters themselves.

        Returns:
            What `extra` gave, or zero.
        """
        further = torch.zeros_like(self.pairs.model.logit_scale)
        parts = self._gradients_by_part(gradients, views)
        kept = len(parts) - 1
        for turn, at in enumerate([kept, *range(kept)]):
            synced = turn == kept
            with self._unless(synced):
                features, scale, bias = self._outputs or self._forward(self.wrapped, at)
                self._outputs = None
                total = torch.zeros_like(scale)
                for some, gradient in zip(features, parts[at], strict=True):
                    if some is not None and gradient is not None:
                        total = total + (some * gradient).sum()
                if synced:
                    for given in (gradients, views):
                        if given is not None:
                            total = total + scale * given.logit_scale
                    if gradients is not None and gradients.logit_bias is not None:
                        total = total + bias * gradients.logit_bias
                    if extra is not None:
                        seed_chance(*self._moment, len(self._parts))
                        further = extra()
                        total = total + further
                self.accelerator.backward(total)
        self._parts = []
        return further.detach()

    def _unless(self, synced: bool) -> AbstractContextManager[Any]:
        """Keep gradients in each process, unless all of them are there and are averaged."""
        return nullcontext() if synced else self.accelerator.no_sync(self.wrapped)

    def _forward(self, module: nn.Module, at: int) -> Outputs:
        """Pass a part through the model, with the chance that belongs to it."""
        pairs, views = self._parts[at]
        device = self.pairs.model.device
        given: list[Tensor | dict[str, Tensor] | None] = [None, None]
        if pairs is not None:
            given = [*pairs.on_device(self.pairs.model)]
        if views is not None:
            keyed = self.views is not None and self.views.keys is not None
            shown = [views.first] if keyed else [views.first, views.second]
            given += [normalize(some.to(device), self._preprocessing) for some in shown]
        seed_chance(*self._moment, at)
        with self.accelerator.autocast():
            outputs: Outputs = module(*given)
        return outputs

    @property
    def _preprocessing(self) -> Preprocessing:
        return self.pairs.model.preprocessing

    def _gradients_by_part(
        self, gradients: Gradients | None, views: ViewGradients | None
    ) -> list[Features]:
        """Cut gradients as the batch was cut."""
        pairs = [0 if part is None else len(part.images) for part, _ in self._parts]
        shown = [0 if part is None else len(part.first) for _, part in self._parts]
        sides: list[tuple[Tensor | None, list[int]]]
        sides = [(None, pairs), (None, pairs), (None, shown), (None, shown)]
        if gradients is not None:
            sides[:2] = [(gradients.image_features, pairs), (gradients.text_features, pairs)]
        if views is not None:
            sides[2:] = [(views.first, shown), (views.second, shown)]
        processes = process_count()  # Accelerate averages what is the sum of the processes' shares
        cut = [
            [None] * len(sizes) if rows is None else (rows * processes).split(sizes)
            for rows, sizes in sides
        ]
        return [Features(*some) for some in zip(*cut, strict=True)]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join the features of parts, of which some have none."""
    there = [some for some in parts if some is not None]
    return torch.cat(there) if there else None
