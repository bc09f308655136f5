"""A teacher's softmax over the batch as the target."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.losses.blockwise import (
    CHUNK_SIZE,
    LogitBlocks,
    NoTargets,
    check_chunk_size,
    log_sum_exps,
    softmax_loss,
    softmaxes,
)
from clipkit.losses.share import Share


class DistillLoss(nn.Module):
    """Affinity mimicking: compare images and texts of a batch as a teacher does.

    For each image, the student's softmax over all texts of the batch should be the teacher's, and
    for each text that over all images (TinyCLIP, https://arxiv.org/abs/2309.12314, after
    https://arxiv.org/abs/1503.02531); the loss is the mean of the two cross-entropies. Duplicates
    need no care: where two texts are the same, the teacher says so. It is computed in float32
    (float64 for features in float64) whatever surrounds it, and never holds the matrix of logits.

    Args:
        chunk_size: rows of logits at a time; the result does not depend on it.

    Raises:
        ConfigError: when `chunk_size` is less than 1.

    Example:
        >>> features, scale = torch.eye(2), torch.tensor(1.0)
        >>> round(DistillLoss()(features, features, scale, features, features, scale).item(), 4)
        0.5822
    """

    def __init__(self, *, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        image_features: Float[Tensor, "batch dim"],
        text_features: Float[Tensor, "batch dim"],
        logit_scale: Float[Tensor, ""],
        teacher_image_features: Float[Tensor, "batch teacher_dim"],
        teacher_text_features: Float[Tensor, "batch teacher_dim"],
        teacher_logit_scale: Float[Tensor, ""],
        share: Share | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of pairs.

        Args:
            image_features: L2-normalised, as a rule, as all of them.
            text_features: of the same pairs.
            logit_scale: the multiplier (after exp).
            teacher_image_features: of the same pairs; no gradient reaches the teacher.
            teacher_text_features: of the same pairs.
            teacher_logit_scale: the teacher's multiplier, or 1 / temperature.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats; the teacher's entropy when the student does as the teacher.
        """
        with torch.autocast(image_features.device.type, enabled=False):
            student = LogitBlocks(
                image_features,
                text_features,
                logit_scale,
                None,
                chunk_size=self.chunk_size,
                share=share,
            )
            teacher = LogitBlocks(
                teacher_image_features.detach().to(student.scale.dtype),
                teacher_text_features.detach(),
                teacher_logit_scale.detach(),
                None,
                chunk_size=self.chunk_size,
                share=share,
            )
            return softmax_loss(student, _Teacher(teacher))


class _Teacher:
    """The softmaxes of a teacher as targets."""

    def __init__(self, blocks: LogitBlocks) -> None:
        self.blocks = blocks
        self.by_row, self.by_column, _ = log_sum_exps(blocks, NoTargets())

    def prepare(self, logits: Float[Tensor, "rows batch"], rows: range) -> Float[Tensor, " rows"]:
        """Return the sum over each row of logits times both softmaxes of the teacher."""
        return self._softmaxes(rows).mul_(logits).sum(1)

    def leave_out(self, logits: Float[Tensor, "rows batch"], rows: range) -> None:
        """Leave nothing out."""

    def subtract(self, softmaxes: Float[Tensor, "rows batch"], rows: range) -> None:
        """Take the teacher's softmaxes from the student's."""
        softmaxes -= self._softmaxes(rows)

    def _softmaxes(self, rows: range) -> Float[Tensor, "rows batch"]:
        """Return the sum of the teacher's softmaxes over rows and over columns."""
        logits = self.blocks.take(rows)
        softmaxes(logits, self.by_row, self.by_column, rows, scratch=self.blocks.scratch(rows))
        return logits
