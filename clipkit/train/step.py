"""The loss of a whole step: of its pairs, of its views, or of both."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.feed import StepBatch
from clipkit.train.grad_cache import Features
from clipkit.train.objective import Aim, Objective
from clipkit.train.view_term import ViewAim, ViewTerm


@dataclass(frozen=True, slots=True)
class StepAim:
    """A step's loss, before the model hears of it.

    Attributes:
        loss: of the whole step, in nats.
        terms: what it is the sum of.
        first_loss: of the pairs without a teacher's part; of the views where there are no pairs.
        pairs: what the pairs aim at.
        views: what the views do.
        signal: the largest of the numbers that the processes passed on.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    first_loss: Float[Tensor, ""]
    pairs: Aim | None
    views: ViewAim | None
    signal: int

    def sides(self) -> dict[str, Float[Tensor, "batch dim"]]:
        """Return features whose likeness tells of a collapse, by what they are of."""
        if self.pairs is not None:
            images, texts = self.pairs.gathered.features[:2]
            return {"image": images.detach(), "text": texts.detach()}
        if self.views is not None:
            return {"image": self.views.gathered.features[0].detach()}
        return {}

    def rows(self) -> set[int]:
        """Return the rows of the data that the step has seen."""
        seen = [aim.rows.tolist() for aim in (self.pairs, self.views) if aim is not None]
        return {row for rows in seen for row in rows}

    def spoilt_rows(self) -> list[int]:
        """Return the rows of the data whose features are no numbers."""
        both = [aim.spoilt_rows() for aim in (self.pairs, self.views) if aim is not None]
        return sorted({row for rows in both for row in rows})


class StepObjective:
    """What a step minimises.

    Args:
        pairs: the loss of pairs of pictures and captions.
        views: that of views of pictures.

    Raises:
        ConfigError: when there is neither.
    """

    def __init__(self, pairs: Objective | None, views: ViewTerm | None = None) -> None:
        """Keep both."""
        if pairs is None and views is None:
            raise ConfigError("loss: is null and there are no views: nothing would be learned")
        self.pairs, self.views = pairs, views

    def __call__(
        self, model: DualEncoder, batch: StepBatch, features: Features, *, signal: int = 0
    ) -> StepAim:
        """Return the loss of the batch of all processes, and its gradients.

        Args:
            model: whose logit scale and bias are used.
            batch: this process's share.
            features: of that share.
            signal: a number for all processes to know the largest of.
        """
        images, texts, first, second = features
        aims: dict[str, Aim | ViewAim] = {}
        pairs, views = None, None
        if self.pairs and batch.pairs and images is not None and texts is not None:
            aims["pairs"] = pairs = self.pairs(model, batch.pairs, images, texts, signal=signal)
        if self.views and batch.views and first is not None and second is not None:
            aims["views"] = views = self.views(model, batch.views, first, second, signal=signal)
        terms = {name: aim.loss for name, aim in aims.items()}
        total = sum(terms.values(), start=model.log_logit_scale.detach() * 0)
        leading = next(iter(aims.values()))
        first_loss = leading.loss if pairs is None else pairs.pair_loss
        return StepAim(total, terms, first_loss, pairs, views, leading.gathered.signal)

    def chance(self, aim: StepAim) -> float | None:
        """Return what `first_loss` is for who guesses, in nats, where the loss knows it."""
        if aim.pairs is not None and self.pairs is not None:
            return _chance(self.pairs.loss, len(aim.pairs.rows))
        if aim.views is not None and self.views is not None:
            chance = _chance(self.views.loss, len(aim.views.rows))
            return None if chance is None else self.views.weight * chance
        return None


def _chance(loss: object, batch: int) -> float | None:
    """Ask a loss of `clipkit.losses` that knows it."""
    known = getattr(loss, "chance", None)
    return None if known is None else float(known(batch))
