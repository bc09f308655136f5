"""What a run learns from views of pictures: their loss, the head it sees them through, and keys."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.data.loader import MakeView
from clipkit.errors import ConfigError
from clipkit.losses import Duplicates, Positives
from clipkit.models.dual_encoder import DualEncoder, project_features
from clipkit.models.momentum import momentum_update
from clipkit.train.gather import Gathered, gather_rows, spoilt_rows
from clipkit.train.view_batches import ViewBatch


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Contrast of pictures with pictures, alone or beside that with captions (SLIP).

    Attributes:
        weight: of its loss, beside that of the pairs (1 in SLIP, https://arxiv.org/abs/2112.12750).
        batch_size: pictures a step, over all processes; that of the pairs if null.
        head_hidden: width of the hidden layer of a head of its own, which training alone has: what
            the views teach then shows in the image tower, and the joint space is left to captions.
            Without one (null) the views are compared in the joint space.
        head_dim: width of what that head gives.
        momentum: the second view is seen by a copy of the image tower that follows it so slowly
            (MoCo, https://arxiv.org/abs/1911.05722), such as 0.99; by the tower itself if null.
    """

    weight: float = 1.0
    batch_size: int | None = None
    head_hidden: int | None = None
    head_dim: int = 128
    momentum: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        found = []
        if not 0 < self.weight < inf:
            found.append(f"views.weight: {self.weight} is no number above 0")
        for name, low in (("batch_size", 2), ("head_hidden", 1), ("head_dim", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                found.append(f"views.{name}: {value} is less than {low}")
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            found.append(f"views.momentum: {self.momentum} is not from 0 to 1")
        if found:
            raise ConfigError("views cannot be used:", found)


@dataclass(frozen=True, slots=True)
class Views:
    """The parts of an image-image term, ready to be used.

    Attributes:
        settings: numbers.
        loss: of `clipkit.losses`, or a module that is called as they are; when it has a true
            attribute `needs_labels`, with labels in place of positives.
        view: makes a view of a picture.
    """

    settings: ViewSettings
    loss: nn.Module
    view: MakeView


class ViewHead(nn.Module):
    """What views are compared through (SimCLR's g, https://arxiv.org/abs/2002.05709).

    A norm of the input stands in place of the paper's batch norms, so that what a view gives does
    not depend on its neighbours.

    Args:
        features: width of the input.
        hidden: width of the hidden layer.
        dim: width of the output.
    """

    def __init__(self, features: int, hidden: int, dim: int) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dim"]:
        """Return what is to be normalised and compared."""
        found: Tensor = self.layers(x)
        return found


@dataclass(frozen=True, slots=True)
class ViewGradients:
    """Of the loss of the views of the whole batch.

    Attributes:
        first: of the features of this process's first views.
        second: likewise; `None` where a copy of the tower saw the second ones.
        logit_scale: whole, the same in each process.
    """

    first: Float[Tensor, "rows dim"]
    second: Float[Tensor, "rows dim"] | None
    logit_scale: Float[Tensor, ""]


@dataclass(frozen=True, slots=True)
class ViewAim:
    """A step's loss of views, before the model hears of it.

    Attributes:
        loss: of the whole batch, weighted.
        gradients: of it.
        gathered: the batch of all processes; its features are first and second views.
        rows: of the data, that the gathered views are of.
    """

    loss: Float[Tensor, ""]
    gradients: ViewGradients
    gathered: Gathered
    rows: Int[Tensor, " batch"]

    def spoilt_rows(self) -> list[int]:
        """Return the rows of the data whose features are no numbers."""
        return spoilt_rows(self.gathered, self.rows)


class ViewTerm(nn.Module):
    """The image-image term of a run; what of it changes in training is in its `state_dict`.

    Args:
        model: whose image tower sees the views; on the device it trains on, in training mode.
        views: the parts.
        duplicates: what views of pictures that are the same are to each other.

    Raises:
        ConfigError: when the loss keeps keys and nothing makes them, or nothing would learn.
    """

    def __init__(self, model: DualEncoder, views: Views, *, duplicates: Duplicates) -> None:
        """Make the head, and the copy of the tower."""
        super().__init__()
        settings = views.settings
        self.loss = views.loss.to(model.device)
        self.weight, self.momentum = settings.weight, settings.momentum
        self.duplicates: Duplicates = duplicates
        self.head: ViewHead | None = None
        if settings.head_hidden is not None:
            if not any(some.requires_grad for some in model.image_tower.parameters()):
                raise ConfigError(
                    "views.head_hidden: beside a frozen image tower nothing of the model would"
                    " learn from views: write trainable: image_tower or all, or head_hidden: null"
                )
            width = _tower_width(model)
            head = ViewHead(width, settings.head_hidden, settings.head_dim)
            self.head = head.to(model.device)
        self.keys: nn.ModuleDict | None = None
        if settings.momentum is not None:
            self.keys = copy.deepcopy(self._image_side(model)).requires_grad_(False)
        elif hasattr(self.loss, "enqueue"):
            raise ConfigError("views.momentum: is null, and this loss needs one, such as 0.99")

    def _image_side(self, model: DualEncoder) -> nn.ModuleDict:
        """Return what the views pass through."""
        head = model.image_projection if self.head is None else self.head
        return nn.ModuleDict({"tower": model.image_tower, "head": head})

    @torch.no_grad()
    def encode_keys(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor | None:
        """Return what the slow copy makes of second views; `None` where there is none."""
        if self.keys is None:
            return None
        return project_features(self.keys["head"], self.keys["tower"](images))

    def forward(
        self,
        model: DualEncoder,
        batch: ViewBatch,
        first: Float[Tensor, "rows dim"],
        second: Float[Tensor, "rows dim"],
        *,
        signal: int = 0,
    ) -> ViewAim:
        """Return the loss of the views of all processes, and its gradients.

        Args:
            model: whose logit scale is used.
            batch: this process's share.
            first: features of its first views.
            second: likewise.
            signal: a number for all processes to know the largest of.
        """
        keys = torch.stack([batch.image_keys, batch.labels, batch.rows.long()], dim=1)
        gathered = gather_rows([first, second], keys.to(model.device), signal=signal)
        image_keys, labels, rows = gathered.keys.unbind(1)
        leaves = [some.requires_grad_() for some in gathered.features]
        scale = model.logit_scale.detach().requires_grad_()
        known = (
            labels
            if getattr(self.loss, "needs_labels", False)
            else Positives(image_keys, image_keys, self.duplicates)
        )
        call: Callable[..., Tensor] = self.loss
        shared = {"share": gathered.share} if getattr(self.loss, "shares_work", False) else {}
        total = self.weight * call(*leaves, scale, None, known, **shared)
        given = torch.autograd.grad(
            total, [*leaves, scale], allow_unused=True, materialize_grads=True
        )
        gradients = ViewGradients(
            given[0][gathered.mine],
            None if self.keys is not None else given[1][gathered.mine],
            given[2],
        )
        return ViewAim(total.detach(), gradients, gathered, rows)

    @torch.no_grad()
    def after_step(self, model: DualEncoder, aim: ViewAim) -> None:
        """Have the copy follow, and put the keys of the batch into the queue."""
        if self.keys is None or self.momentum is None:
            return
        momentum_update(self.keys, self._image_side(model), self.momentum)
        enqueue = getattr(self.loss, "enqueue", None)
        if enqueue is not None:
            enqueue(aim.gathered.features[1].detach(), aim.gathered.keys[:, 0])


def _tower_width(model: DualEncoder) -> int:
    """Return how wide the image tower's features are."""
    size, was_training = model.preprocessing.size, model.training
    model.eval()
    with torch.inference_mode():
        features: Tensor = model.image_tower(torch.zeros(1, 3, size, size, device=model.device))
    model.train(was_training)
    return features.shape[1]
