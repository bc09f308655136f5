"""The symmetric softmax loss of CLIP."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ClipLoss(nn.Module):
    """Symmetric cross-entropy over in-batch negatives (https://arxiv.org/abs/2103.00020).

    For each image, the softmax over all texts of the batch should fall on its positives, and for
    each text the softmax over all images; the loss is the mean of the two. With one positive a row
    this is CLIP's loss; with several, the target is spread evenly over them (UniCL,
    https://arxiv.org/abs/2204.03610). It is computed in float32 whatever surrounds it.

    Args:
        label_smoothing: share of the target spread evenly over the batch, in [0, 1).

    Example:
        >>> features = torch.eye(2)
        >>> round(ClipLoss()(features, features, torch.tensor(1.0)).item(), 4)
        0.3133
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        """Keep the share of smoothing."""
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(
        self,
        image_features: Float[Tensor, "batch dim"],
        text_features: Float[Tensor, "batch dim"],
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None = None,
        positives: Bool[Tensor, "batch batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of pairs.

        Args:
            image_features: L2-normalised.
            text_features: L2-normalised; row i belongs to image i.
            logit_scale: the multiplier (after exp).
            logit_bias: ignored by a softmax, which it does not change.
            positives: image (row) and text (column) that belong together; the diagonal if `None`.

        Returns:
            A scalar in nats.
        """
        with torch.autocast(image_features.device.type, enabled=False):
            logits = logit_scale.float() * (image_features.float() @ text_features.float().T)
            if positives is None:
                targets = torch.eye(len(logits), device=logits.device)
            else:
                targets = positives.float()
            return (
                self._cross_entropy(logits, targets) + self._cross_entropy(logits.T, targets.T)
            ) / 2

    def _cross_entropy(
        self, logits: Float[Tensor, "batch batch"], targets: Float[Tensor, "batch batch"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of each row against its share of positives, averaged over rows."""
        targets = targets / targets.sum(1, keepdim=True)
        return nn.functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
