"""Triplets: an anchor nearer to its own kind than to others, by a margin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.labels import join_views
from clipkit.losses.rowwise import check_margin, own_columns, with_unused
from clipkit.losses.share import Share

Mining = Literal["batch_hard", "semi_hard", "all"]
"""Which triplets of a batch count."""

Distance = Literal["squared", "euclidean"]
"""What is compared: squared Euclidean distances (FaceNet), or the distances themselves."""


class TripletLoss(nn.Module):
    """Hinges of triplets (FaceNet, https://arxiv.org/abs/1503.03832).

    max(0, margin + distance(anchor, positive) - distance(anchor, negative)), averaged over the
    triplets that count. Each view is an anchor, the other views of its class are its positives, and
    the views of other classes its negatives; an image without a label is of a class of its own.

    - "batch_hard": of each anchor, the farthest positive and the nearest negative
      (https://arxiv.org/abs/1703.07737);
    - "semi_hard": of each anchor and positive, the nearest negative that is farther from the anchor
      than the positive is; a pair that has none does not count (FaceNet);
    - "all": every triplet, which takes no more memory than the others.

    Of equally far ones the first is taken. Where no triplet counts, the loss and its gradients are
    0. It is computed in float32 (float64 for features in float64) whatever surrounds it, and never
    holds the matrix of all distances.

    Args:
        margin: in units of `distance`; 0.2 of squared distances in FaceNet.
        mining: which triplets count.
        distance: "squared" Euclidean, which is 2 - 2 * cosine for L2-normalised features, or
            "euclidean".
        active_only: average only over triplets whose hinge is above 0, so that those that are
            solved do not water down the others (`BA != 0` in 1703.07737).
        chunk_size: anchors at a time; the result does not depend on it, but for distances that
            are equal up to rounding.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [1.5]]), torch.tensor([0, 0, 1])
        >>> loss = TripletLoss(margin=0.25)
        >>> loss(features, None, torch.tensor(1.0), None, labels).item()
        0.5
    """

    shares_work = True  # training hands such a loss this process's share
    needs_labels = True  # and labels in place of positives

    def __init__(
        self,
        *,
        margin: float = 0.2,
        mining: Mining = "batch_hard",
        distance: Distance = "squared",
        active_only: bool = False,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.margin = check_margin(margin)
        if mining not in MINERS:
            raise ConfigError(f"loss: mining must be {' or '.join(MINERS)}, not {mining}")
        if distance not in ("squared", "euclidean"):
            raise ConfigError(f"loss: distance must be squared or euclidean, not {distance}")
        self.mining: Mining = mining
        self.distance: Distance = distance
        self.active_only = active_only
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        first_features: Float[Tensor, "batch dim"],
        second_features: Float[Tensor, "batch dim"] | None,
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        share: Share | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of one or two views of each image of a batch.

        Args:
            first_features: of any length, though L2-normalised as a rule.
            second_features: as these; row i shows the image of row i. `None` for one view.
            logit_scale: not used, as distances are compared; its gradient is 0.
            logit_bias: likewise.
            labels: equal numbers for images of one class, -1 for none; none at all if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in units of `distance`.

        Raises:
            ConfigError: when there is neither a second view nor a label.
        """
        with torch.autocast(first_features.device.type, enabled=False):
            views, classes = join_views(first_features, second_features, labels)
            blocks = _squared_distances(views, chunk_size=self.chunk_size, share=share)
            loss = self._loss(blocks, classes)
            # What is no number must not hide in a triplet that nobody mines.
            return with_unused(loss, logit_scale, logit_bias, views)

    def _loss(self, blocks: LogitBlocks, classes: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
        """Return the mean over triplets, with its gradients."""
        with torch.no_grad():
            value, count = torch.zeros_like(blocks.scale), torch.zeros_like(blocks.scale)
            for rows in blocks.rows():
                same = classes[rows.start : rows.stop, None] == classes
                positive = same & ~own_columns(rows, len(classes), classes.device)
                distances = blocks.take(rows).clamp_(min=0)
                if self.distance == "euclidean":
                    distances.sqrt_()
                mined = MINERS[self.mining](distances, positive, ~same, self.margin)
                value += mined.value
                count += mined.active if self.active_only else mined.count
                if blocks.needs_gradient:
                    pulls = mined.pulls
                    if self.distance == "euclidean":  # a distance of 0 has no direction
                        pulls *= torch.where(distances > 0, 0.5 / distances, 0)
                    blocks.spend(rows, pulls)
            count = blocks.share.total(count)
        return blocks.finish(value, 1) / count.clamp(min=1)


def _squared_distances(
    views: Float[Tensor, "rows dim"], *, chunk_size: int, share: Share | None
) -> LogitBlocks:
    """Return |a|^2 - 2 a·b + |b|^2 of all views as a product of two matrices."""
    views = views.to(torch.promote_types(views.dtype, torch.float32))
    lengths = views.square().sum(1, keepdim=True)
    ones = torch.ones_like(lengths)
    return LogitBlocks(
        torch.cat([-2 * views, lengths, ones], dim=1),
        torch.cat([views, ones, lengths], dim=1),
        views.new_ones(()),
        None,
        chunk_size=chunk_size,
        share=share,
    )


@dataclass(frozen=True, slots=True)
class Mined:
    """The triplets of some anchors.

    Attributes:
        value: the sum of their hinges.
        count: how many they are.
        active: how many of them have a hinge above 0.
        pulls: the gradient of the sum for each distance.
    """

    value: Float[Tensor, ""]
    count: Int[Tensor, ""]
    active: Int[Tensor, ""]
    pulls: Float[Tensor, "rows columns"]


def _batch_hard(
    distances: Float[Tensor, "rows columns"],
    positive: Bool[Tensor, "rows columns"],
    negative: Bool[Tensor, "rows columns"],
    margin: float,
) -> Mined:
    """Take the farthest positive and the nearest negative of each anchor that has both."""
    far, own = distances.masked_fill(~positive, -torch.inf).max(1, keepdim=True)
    near, other = distances.masked_fill(~negative, torch.inf).min(1, keepdim=True)
    both = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
    hinges = (margin + far - near).clamp_(min=0)  # 0 of an anchor that lacks one: from -inf
    active = hinges > 0
    pulls = torch.zeros_like(distances)
    pulls.scatter_add_(1, own, active.to(pulls.dtype))
    pulls.scatter_add_(1, other, -active.to(pulls.dtype))
    return Mined(hinges.sum(), both.sum(), active.sum(), pulls)


def _semi_hard(
    distances: Float[Tensor, "rows columns"],
    positive: Bool[Tensor, "rows columns"],
    negative: Bool[Tensor, "rows columns"],
    margin: float,
) -> Mined:
    """Take for each positive the nearest negative beyond it.

    The positives of an anchor cut what is around it into rings. Of each ring the nearest negative
    is found; a positive then takes that of the first ring outside of it which has one.
    """
    own, own_at, count = _sorted_positives(distances, positive)
    columns = distances.shape[1]
    ring = torch.searchsorted(own, distances)  # how many positives are nearer
    others = distances.masked_fill(~negative, torch.inf)
    rings = (len(own), own.shape[1] + 1)
    nearest = own.new_full(rings, torch.inf).scatter_reduce_(1, ring, others, "amin")
    candidates = torch.arange(columns, device=own.device).repeat(len(own), 1)
    candidates.masked_fill_(others > nearest.gather(1, ring), columns - 1)
    first = ring.new_full(rings, columns - 1).scatter_reduce_(1, ring, candidates, "amin")
    beyond, at = nearest[:, 1:].flip(1).cummin(1)  # from the outermost ring inwards
    other_at = first[:, 1:].flip(1).gather(1, at).flip(1)
    beyond = beyond.flip(1)
    found = (torch.arange(own.shape[1], device=own.device) < count) & (beyond < torch.inf)
    hinges = torch.where(found, margin + own - beyond, 0).clamp_(min=0)
    active = hinges > 0
    pulls = torch.zeros_like(distances).scatter_add_(1, own_at, active.to(own.dtype))
    pulls.scatter_add_(1, other_at, -active.to(own.dtype))
    return Mined(hinges.sum(), found.sum(), active.sum(), pulls)


def _all(
    distances: Float[Tensor, "rows columns"],
    positive: Bool[Tensor, "rows columns"],
    negative: Bool[Tensor, "rows columns"],
    margin: float,
) -> Mined:
    """Take every triplet, without listing any.

    A hinge is above 0 where a negative is nearer than a positive and the margin reach. So it is
    enough to know for each negative how many positives reach beyond it, and for each positive how
    many negatives are within its reach.
    """
    own, own_at, count = _sorted_positives(distances, positive)
    reach = own + margin
    short = torch.searchsorted(reach, distances, right=True)  # how many do not reach beyond
    beyond = torch.where(negative, count - short, 0)
    rings = short.new_zeros(len(own), own.shape[1] + 1)
    rings.scatter_add_(1, short, negative.long())
    real = torch.arange(own.shape[1], device=own.device) < count
    within = torch.where(real, rings.cumsum(1)[:, :-1], 0)
    value = (within * torch.where(real, reach, 0)).sum() - (beyond * distances).sum()
    triplets = (count[:, 0] * negative.sum(1)).sum()
    pulls = (-beyond).to(own.dtype).scatter_add_(1, own_at, within.to(own.dtype))
    return Mined(value, triplets, within.sum(), pulls)


def _sorted_positives(
    distances: Float[Tensor, "rows columns"], positive: Bool[Tensor, "rows columns"]
) -> tuple[Float[Tensor, "rows most"], Int[Tensor, "rows most"], Int[Tensor, "rows 1"]]:
    """Return the distances of each row's positives from near to far, and their columns.

    Returns:
        Distances, infinite past the row's last one; columns, any past it; how many there are.
    """
    count = positive.sum(1)
    row, column = positive.nonzero(as_tuple=True)  # the host waits for the device
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    most = max(1, int(count.max()))
    own = distances.new_full((len(distances), most), torch.inf)
    columns = row.new_zeros(len(distances), most)
    own[row, place], columns[row, place] = distances[row, column], column
    own, order = own.sort(dim=1, stable=True)
    return own, columns.gather(1, order), count[:, None]


MINERS: dict[
    Mining,
    Callable[
        [
            Float[Tensor, "rows columns"],
            Bool[Tensor, "rows columns"],
            Bool[Tensor, "rows columns"],
            float,
        ],
        Mined,
    ],
] = {"batch_hard": _batch_hard, "semi_hard": _semi_hard, "all": _all}
"""What finds the triplets of some anchors, by the name of the mining."""
