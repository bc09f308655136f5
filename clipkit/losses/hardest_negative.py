"""A margin between a pair and the hardest negative on either side."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.positives import Positives
from clipkit.losses.rowwise import check_margin, with_unused
from clipkit.losses.share import Share


class HardestNegativeLoss(nn.Module):
    """Max of hinges over in-batch negatives (VSE++, https://arxiv.org/abs/1707.05612).

    For each image, max(0, margin - cosine with its text + the largest cosine with a negative), and
    for each text likewise over images; the loss is the sum of both directions, averaged over pairs.
    What belongs together by content is never a negative unless `duplicates` says "ignore"; a row
    with several positives takes the mean over them, and one without negatives gives 0. Of
    negatives that are equally hard the first is taken. It is computed in float32 (float64 for
    features in float64) whatever surrounds it, and never holds the matrix of all cosines.

    Args:
        margin: in cosines; 0.2 in the paper.
        chunk_size: rows at a time; the result does not depend on it.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> image, text = torch.eye(2), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
        >>> round(HardestNegativeLoss(margin=0.2)(image, text, torch.tensor(1.0)).item(), 4)
        0.2
    """

    shares_work = True  # training hands such a loss this process's share

    def __init__(self, *, margin: float = 0.2, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
        self.margin = check_margin(margin)
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        image_features: Float[Tensor, "batch dim"],
        text_features: Float[Tensor, "batch dim"],
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None = None,
        positives: Positives | None = None,
        share: Share | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of pairs.

        Args:
            image_features: L2-normalised, as a rule.
            text_features: as these; row i belongs to image i.
            logit_scale: not used, as cosines are compared; its gradient is 0.
            logit_bias: likewise.
            positives: image (row) and text (column) that belong together; the diagonal if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar, in cosines.
        """
        device = image_features.device
        positives = positives or Positives.diagonal(len(image_features), device)
        with torch.autocast(device.type, enabled=False):
            loss = torch.zeros_like(logit_scale)
            for rows, columns in (
                (image_features, text_features),
                (text_features, image_features),
            ):
                blocks = LogitBlocks(
                    rows,
                    columns,
                    torch.ones_like(logit_scale),
                    None,
                    chunk_size=self.chunk_size,
                    share=share,
                )
                loss = loss + _hinges(blocks, positives, self.margin)
            return with_unused(loss, logit_scale, logit_bias)


def _hinges(blocks: LogitBlocks, positives: Positives, margin: float) -> Float[Tensor, ""]:
    """Return the mean over rows of the hinge of their hardest negative, with its gradients."""
    with torch.no_grad():
        value = torch.zeros_like(blocks.scale)
        for rows in blocks.rows():
            cosines = blocks.take(rows)
            row, column = positives.pairs(rows)
            matched = cosines[row, column]
            cosines[row, column] = -torch.inf
            left_out = positives.left_out(rows)
            if left_out is not None:
                cosines[left_out] = -torch.inf
            hardest, at = cosines.max(1)
            hinges = (margin - matched + hardest[row]).clamp_(min=0)
            each = 1 / positives.count[rows.start : rows.stop].to(value.dtype)[row]
            value += (hinges * each).sum()
            if blocks.needs_gradient:
                pull = (hinges > 0) * each
                pulls = cosines.zero_().index_put_((row, column), -pull)
                pulls.index_put_((row, at[row]), pull, accumulate=True)
                blocks.spend(rows, pulls)
    return blocks.finish(value, blocks.batch)
