"""The pairwise sigmoid loss of SigLIP."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.positives import Positives
from clipkit.losses.share import Share


class SigLipLoss(nn.Module):
    """Each image and text judged on its own: same pair or not (https://arxiv.org/abs/2303.15343).

    -1/batch * sum over all images and texts of log sigmoid(z * (scale * cosine + bias)), where z is
    1 for positives and -1 for others. It is computed in float32 (float64 for features in float64)
    whatever surrounds it, and never holds the matrix of all logits.

    Args:
        chunk_size: rows of logits at a time; the result does not depend on it.

    Raises:
        ConfigError: when `chunk_size` is less than 1.

    Example:
        >>> features = torch.eye(2)
        >>> loss = SigLipLoss()(features, features, torch.tensor(1.0), torch.tensor(0.0))
        >>> round(loss.item(), 4)
        1.0064
    """

    shares_work = True  # training hands such a loss this process's share
    similarity = "sigmoid"  # what it makes of a model's scores

    def __init__(self, *, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
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
            logit_scale: the multiplier (after exp).
            logit_bias: added to each logit.
            positives: image (row) and text (column) that belong together; the diagonal if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats.

        Raises:
            ConfigError: when there is no bias.
        """
        if logit_bias is None:
            raise ConfigError(
                "loss: siglip needs a model with a logit bias, and this one has none; use clip"
            )
        device = image_features.device
        with torch.autocast(device.type, enabled=False):
            blocks = LogitBlocks(
                image_features,
                text_features,
                logit_scale,
                logit_bias,
                chunk_size=self.chunk_size,
                share=share,
            )
            return _sigmoid_loss(
                blocks, positives or Positives.diagonal(len(image_features), device)
            )


@torch.no_grad()
def _sums(blocks: LogitBlocks, positives: Positives) -> Float[Tensor, ""]:
    """Return the sum of softplus(-z * logit) over this process's rows; spend the gradients."""
    value = torch.zeros_like(blocks.scale)
    for rows in blocks.rows():
        signed = blocks.take(rows)  # becomes -z * logit
        pairs, left_out = positives.pairs(rows), positives.left_out(rows)
        signed[pairs] *= -1
        if left_out is not None:
            signed[left_out] = -torch.inf
        value += _softplus(signed, blocks.scratch(rows))
        if blocks.needs_gradient:
            signed.sigmoid_()
            signed[pairs] *= -1
            blocks.spend(rows, signed)
    return value


def _sigmoid_loss(blocks: LogitBlocks, positives: Positives) -> Float[Tensor, ""]:
    """Return the loss, whole and with its gradients."""
    return blocks.finish(_sums(blocks, positives), blocks.batch)


def _softplus(
    values: Float[Tensor, "rows batch"], scratch: Float[Tensor, "rows batch"]
) -> Float[Tensor, ""]:
    """Return the sum of log(1 + exp(value)), as max(value, 0) + log(1 + exp(-|value|)).

    A logarithm takes longer than a dot product on some CPUs. So (1 + a)(1 + b) = 1 + (a + b + ab)
    is used to join the terms, all between 0 and 1, until each stands for 64 of them, which a
    float32 still holds. Nothing is lost: only numbers of one sign are added.
    """
    above = torch.clamp(values, min=0, out=scratch).sum(1)
    terms = torch.abs(values, out=scratch).neg_().exp_()
    for _ in range(6):
        half = (terms.shape[1] + 1) // 2
        second = terms[:, half:]
        first = terms[:, : second.shape[1]]
        first.addcmul_(first, second).add_(second)
        terms = terms[:, :half]
    return (above + terms.log1p().sum(1)).sum()
