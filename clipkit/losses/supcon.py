"""Supervised contrast: the views of one class know each other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.labels import join_views
from clipkit.losses.rowwise import (
    Meetings,
    check_temperature,
    own_columns,
    scale_for,
    softmax_rows_loss,
    with_unused,
)
from clipkit.losses.share import Share


class SupConLoss(nn.Module):
    """Supervised contrastive loss (https://arxiv.org/abs/2004.11362), its form L_out.

    For each view, minus the mean over the other views of its class (outside the logarithm, which
    the paper finds better than inside) of the log of the softmax over all other views; the loss is
    the mean over all views that have such others. An image without a label is of a class of its
    own: its second view is its only positive, and with one view it is but a negative of others.
    With two views and no two labels equal this is `NTXentLoss`; the paper's own code multiplies by
    the temperature besides, this does not. It is computed in float32 (float64 for features in
    float64) whatever surrounds it, and never holds the matrix of all logits.

    Args:
        temperature: what cosines are divided by, 0.1 in the paper; `None` for the model's logit
            scale, which then learns.
        chunk_size: rows of logits at a time; the result does not depend on it.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> features, labels = torch.eye(3), torch.tensor([0, 0, 1])
        >>> loss = SupConLoss(temperature=0.1)
        >>> round(loss(features, None, torch.tensor(1.0), None, labels).item(), 4)
        0.6931
    """

    shares_work = True  # training hands such a loss this process's share
    needs_labels = True  # and labels in place of positives
    similarity = "softmax"  # what it makes of a model's scores

    def __init__(self, *, temperature: float | None = None, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
        self.temperature = check_temperature(temperature)
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
            first_features: L2-normalised, as a rule.
            second_features: as these; row i shows the image of row i. `None` for one view.
            logit_scale: the multiplier (after exp); its gradient is 0 beside a `temperature`.
            logit_bias: what a softmax does not see; its gradient is 0.
            labels: equal numbers for images of one class, -1 for none; none at all if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats; 0 when no view has another of its class.

        Raises:
            ConfigError: when there is neither a second view nor a label.
        """
        with torch.autocast(first_features.device.type, enabled=False):
            views, classes = join_views(first_features, second_features, labels)
            blocks = LogitBlocks(
                views,
                views,
                scale_for(self.temperature, logit_scale, views),
                None,
                chunk_size=self.chunk_size,
                share=share,
            )

            def meet(rows: range) -> Meetings:
                itself = own_columns(rows, len(classes), classes.device)
                same = classes[rows.start : rows.stop, None] == classes
                return same & ~itself, itself

            return with_unused(softmax_rows_loss(blocks, meet), logit_scale, logit_bias)
