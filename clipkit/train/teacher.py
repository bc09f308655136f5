"""Distillation: a larger model's view of each batch, for a smaller one to imitate."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.errors import ConfigError
from clipkit.evaluate.encoder import check_rejects
from clipkit.losses import DistillLoss
from clipkit.models import load
from clipkit.train.batches import PairBatch
from clipkit.train.feature_cache import FeatureCache


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """Who teaches, and how much its word counts.

    The teacher sees each picture as it is, without the augmentation that the student sees, and each
    caption once; what it makes of them is kept with the features of frozen towers. Its loss is
    added to that of the pairs (Hinton et al. 2015, https://arxiv.org/abs/1503.02531; TinyCLIP,
    https://arxiv.org/abs/2309.12314).

    Attributes:
        model: what `clipkit.load` takes.
        weight: of the teacher's loss, beside that of the pairs.
        logit_scale: the multiplier of the teacher's cosines; its own when `None`.
    """

    model: str
    weight: float = 1.0
    logit_scale: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        problems = [
            f"distill.{name}: {getattr(self, name)} is no number above 0"
            for name in ("weight", "logit_scale")
            if getattr(self, name) is not None and not 0 < getattr(self, name) < inf
        ]
        if problems:
            raise ConfigError("distill cannot be used:", problems)


class Teacher:
    """A frozen model's features of all pairs.

    Args:
        settings: who teaches.
        data: what is trained on.
        texts: the captions, as the batches number them.
        cache: encodes them once.
        device: where the teacher works.
        max_rejected: the largest share of rows whose pictures may be unreadable.

    Raises:
        ModelError: when there is no such model.
        RejectedError: when too many pictures cannot be read.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        data: Dataset,
        texts: Sequence[str],
        cache: FeatureCache,
        *,
        device: torch.device,
        max_rejected: float,
    ) -> None:
        """Encode everything."""
        self.weight = settings.weight
        self.loss = DistillLoss()
        model = load(settings.model, device=str(device)).eval().requires_grad_(False)
        features, rows = cache.images(model, data)
        check_rejects(data, cache.rejected(data), max_rejected)
        self._images = features.new_zeros(len(data), features.shape[1])
        self._images[rows] = features
        self._texts = cache.texts(model, texts)
        own = model.logit_scale.item()
        self.logit_scale = torch.tensor(settings.logit_scale or own, device=device)

    def features(
        self, batch: PairBatch
    ) -> tuple[Float[Tensor, "rows teacher"], Float[Tensor, "rows teacher"]]:
        """Return its image and text features of some pairs, on the CPU."""
        numbers = batch.caption_numbers
        if numbers is None:
            raise ConfigError("distill: needs numbered captions")
        return self._images[batch.rows], self._texts[numbers]
