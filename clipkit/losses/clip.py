"""The symmetric softmax loss of CLIP."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.blockwise import (
    CHUNK_SIZE,
    LogitBlocks,
    check_chunk_size,
    softmax_loss,
)
from clipkit.losses.positives import Positives
from clipkit.losses.share import Share


class ClipLoss(nn.Module):
    """Symmetric cross-entropy over in-batch negatives (https://arxiv.org/abs/2103.00020).

    For each image, the softmax over all texts of the batch should fall on its positives, and for
    each text the softmax over all images; the loss is the mean of the two. With one positive a row
    this is CLIP's loss; with several, the target is spread evenly over them (UniCL,
    https://arxiv.org/abs/2204.03610). It is computed in float32 (float64 for features in float64)
    whatever surrounds it, and never holds the matrix of all logits.

    Args:
        label_smoothing: share of the target spread evenly over all that a row or a column compares
            with, in [0, 1); equals that of `torch.nn.functional.cross_entropy` when nothing is
            left out.
        chunk_size: rows of logits at a time; the result does not depend on it.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> features = torch.eye(2)
        >>> round(ClipLoss()(features, features, torch.tensor(1.0)).item(), 4)
        0.3133
    """

    shares_work = True  # training hands such a loss this process's share
    similarity = "softmax"  # what it makes of a model's scores

    def __init__(self, *, label_smoothing: float = 0.0, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigError(
                f"loss: label_smoothing must be at least 0 and below 1, not {label_smoothing}"
            )
        self.label_smoothing = label_smoothing
        self.chunk_size = check_chunk_size(chunk_size)

    def chance(self, batch: int) -> float:
        """Return the loss of guessing, of so many pairs."""
        return math.log(batch)

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
            logit_scale: the multiplier (after exp).
            logit_bias: what a softmax does not see; its gradient is 0.
            positives: image (row) and text (column) that belong together; the diagonal if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats.
        """
        device = image_features.device
        with torch.autocast(device.type, enabled=False):
            blocks = LogitBlocks(
                image_features,
                text_features,
                logit_scale,
                None,
                chunk_size=self.chunk_size,
                share=share,
            )
            positives = positives or Positives.diagonal(len(image_features), device)
            loss = softmax_loss(blocks, _Even(positives, self.label_smoothing, blocks.scale.dtype))
            # Where processes average gradients, a parameter that got none would keep them waiting.
            return loss if logit_bias is None else loss + 0 * logit_bias.to(loss.dtype)


class _Even:
    """Targets spread evenly over the positives of each row and of each column."""

    def __init__(self, positives: Positives, smoothing: float, dtype: torch.dtype) -> None:
        self.positives = positives
        self.each = (1 - smoothing) / positives.count.to(dtype)
        self.smoothing = smoothing
        left = len(positives.count) - positives.count_left_out
        self.everywhere = smoothing / left.to(dtype)

    def prepare(self, logits: Float[Tensor, "rows batch"], rows: range) -> Float[Tensor, " rows"]:
        """Return the sum over each row of logits times both targets, and leave out what is."""
        row, column = self.positives.pairs(rows)
        matched = logits.new_zeros(len(rows))
        matched.index_add_(0, row, logits[row, column] * self._both(self.each, row, column, rows))
        if self.smoothing:
            matched += self.everywhere[rows.start : rows.stop] * logits.sum(1)
            matched += logits @ self.everywhere
            left_out = self.positives.left_out(rows)
            if left_out is not None:
                row, column = left_out
                spread = self._both(self.everywhere, row, column, rows)
                matched.index_add_(0, row, -logits[row, column] * spread)
        self.leave_out(logits, rows)
        return matched

    def leave_out(self, logits: Float[Tensor, "rows batch"], rows: range) -> None:
        """Put -inf where duplicates meet that count neither way."""
        left_out = self.positives.left_out(rows)
        if left_out is not None:
            logits[left_out] = -torch.inf

    def subtract(self, softmaxes: Float[Tensor, "rows batch"], rows: range) -> None:
        """Take both targets from the sum of both softmaxes."""
        row, column = self.positives.pairs(rows)
        softmaxes[row, column] -= self._both(self.each, row, column, rows)
        if self.smoothing:
            softmaxes -= self.everywhere[rows.start : rows.stop, None]
            softmaxes -= self.everywhere
            left_out = self.positives.left_out(rows)
            if left_out is not None:
                softmaxes[left_out] = 0

    @staticmethod
    def _both(values: Tensor, row: Tensor, column: Tensor, rows: range) -> Tensor:
        """Return the value of each listed row plus that of its column."""
        return values[row + rows.start] + values[column]
