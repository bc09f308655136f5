"""What a step minimises: the loss of the gathered batch, and its gradient for the features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.losses import Duplicates, Positives
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import PairBatch
from clipkit.train.gather import Gathered, gather_rows, spoilt_rows
from clipkit.train.grad_cache import Gradients
from clipkit.train.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Aim:
    """A step's loss, before the model hears of it.

    Attributes:
        loss: of the whole batch, in nats.
        pair_loss: the same without a teacher's part.
        gradients: of the loss.
        gathered: the batch of all processes; its features are images, texts and a teacher's two.
        rows: of the data, that the gathered pairs are from.
        positives: which of them belong together.
    """

    loss: Float[Tensor, ""]
    pair_loss: Float[Tensor, ""]
    gradients: Gradients
    gathered: Gathered
    rows: Int[Tensor, " batch"]
    positives: Positives

    def spoilt_rows(self) -> list[int]:
        """Return the rows of the data whose features are no numbers."""
        return spoilt_rows(self.gathered, self.rows)


class Objective:
    """The loss of pairs, and a teacher's beside it.

    Args:
        loss: called with image features, text features, logit scale, logit bias and positives;
            when it has a true attribute `shares_work`, also with `share`.
        duplicates: what pairs of equal content are to one another.
        teacher: whom to imitate as well.
    """

    def __init__(
        self,
        loss: nn.Module,
        *,
        duplicates: Duplicates = "positive",
        teacher: Teacher | None = None,
    ) -> None:
        """Keep the parts."""
        self.loss = loss
        self.duplicates: Duplicates = duplicates
        self.teacher = teacher

    def __call__(
        self,
        model: DualEncoder,
        batch: PairBatch,
        image_features: Float[Tensor, "rows dim"],
        text_features: Float[Tensor, "rows dim"],
        *,
        signal: int = 0,
    ) -> Aim:
        """Return the loss of the batch of all processes, and its gradients.

        Args:
            model: whose logit scale and bias are used.
            batch: this process's share.
            image_features: of that share.
            text_features: likewise.
            signal: a number for all processes to know the largest of.
        """
        features = [image_features, text_features]
        if self.teacher is not None:
            features += [some.to(model.device) for some in self.teacher.features(batch)]
        keys = torch.stack([batch.image_keys, batch.text_keys, batch.rows.long()], dim=1)
        gathered = gather_rows(features, keys.to(model.device), signal=signal)
        image_keys, text_keys, rows = gathered.keys.unbind(1)
        positives = Positives(image_keys, text_keys, self.duplicates)
        leaves = [some.requires_grad_() for some in gathered.features[:2]]
        scale = model.logit_scale.detach().requires_grad_()
        bias = model.logit_bias
        bias = None if bias is None else bias.detach().clone().requires_grad_()
        own, taught = self._losses(gathered, scale, bias, positives)
        total = own if taught is None else own + taught
        wanted = [*leaves, scale] if bias is None else [*leaves, scale, bias]
        given = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        gradients = Gradients(
            given[0][gathered.mine], given[1][gathered.mine], given[2], *given[3:] or (None,)
        )
        return Aim(total.detach(), own.detach(), gradients, gathered, rows, positives)

    def _losses(
        self, gathered: Gathered, scale: Tensor, bias: Tensor | None, positives: Positives
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss of the pairs, and a teacher's."""
        images, texts = gathered.features[:2]
        call: Callable[..., Tensor] = self.loss
        if getattr(self.loss, "shares_work", False):
            own = call(images, texts, scale, bias, positives, share=gathered.share)
        else:
            own = call(images, texts, scale, bias, positives)
        if self.teacher is None:
            return own, None
        taught: Tensor = self.teacher.loss(
            images,
            texts,
            scale,
            *gathered.features[2:],
            self.teacher.logit_scale,
            share=gathered.share,
        )
        return own, self.teacher.weight * taught
