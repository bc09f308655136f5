"""The loss of SimCLR: two views of an image know each other among all views of a batch."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.positives import Positives
from clipkit.losses.rowwise import (
    Meetings,
    check_temperature,
    own_columns,
    scale_for,
    softmax_rows_loss,
    with_unused,
)
from clipkit.losses.share import Share


class NTXentLoss(nn.Module):
    """Normalised temperature-scaled cross-entropy (SimCLR, https://arxiv.org/abs/2002.05709).

    Each of the 2 * batch views is compared with the 2 * batch - 1 others, and the softmax over them
    should fall on the other view of its image; the loss is the mean over all views. Images that are
    the same by their content are never each other's negatives unless `duplicates` says "ignore":
    where they are positives, the target is spread evenly over all views of them, which equals
    `SupConLoss` with content as the label. It is computed in float32 (float64 for features in
    float64) whatever surrounds it, and never holds the matrix of all logits.

    Args:
        temperature: what cosines are divided by, such as 0.1 or 0.5 in the paper; `None` for the
            model's logit scale, which then learns.
        chunk_size: rows of logits at a time; the result does not depend on it.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> features = torch.eye(2)
        >>> round(NTXentLoss(temperature=0.5)(features, features, torch.tensor(1.0)).item(), 4)
        0.2395
    """

    shares_work = True  # training hands such a loss this process's share
    similarity = "softmax"  # what it makes of a model's scores

    def __init__(self, *, temperature: float | None = None, chunk_size: int = CHUNK_SIZE) -> None:
        """Keep the settings."""
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.chunk_size = check_chunk_size(chunk_size)

    def chance(self, batch: int) -> float:
        """Return the loss of guessing, of so many images."""
        return math.log(2 * batch - 1)

    def forward(
        self,
        first_features: Float[Tensor, "batch dim"],
        second_features: Float[Tensor, "batch dim"],
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None = None,
        positives: Positives | None = None,
        share: Share | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of two views of each image of a batch.

        Args:
            first_features: L2-normalised, as a rule.
            second_features: as these; row i shows the image of row i.
            logit_scale: the multiplier (after exp); its gradient is 0 beside a `temperature`.
            logit_bias: what a softmax does not see; its gradient is 0.
            positives: which images are the same; each only itself if `None`.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats.
        """
        batch, device = len(first_features), first_features.device
        with torch.autocast(device.type, enabled=False):
            views = torch.cat([first_features, second_features])
            blocks = LogitBlocks(
                views,
                views,
                scale_for(self.temperature, logit_scale, views),
                None,
                chunk_size=self.chunk_size,
                share=share,
            )
            same = _Views(positives or Positives.diagonal(batch, device), batch)
            return with_unused(softmax_rows_loss(blocks, same), logit_scale, logit_bias)


class _Views:
    """What the views of a batch are to one another, the second ones below the first.

    Args:
        positives: of the images.
        batch: the number of images.
    """

    def __init__(self, positives: Positives, batch: int) -> None:
        self.positives = positives
        self.batch = batch

    def __call__(self, rows: range) -> Meetings:
        """Return positives and what is left out of some rows."""
        device = self.positives.image_keys.device
        itself = own_columns(rows, 2 * self.batch, device)
        positive, left_out = torch.zeros_like(itself), itself.clone()
        for at, images in self._images(rows):
            self._mark(positive[at], self.positives.pairs(images))
            self._mark(left_out[at], self.positives.left_out(images))
        return positive & ~itself, left_out

    def _images(self, rows: range) -> list[tuple[slice, range]]:
        """Cut rows of views in two: their places among the rows, and the images they show."""
        cut = min(max(self.batch, rows.start), rows.stop)
        before, after = range(rows.start, cut), range(cut - self.batch, rows.stop - self.batch)
        parts = ((slice(0, len(before)), before), (slice(len(before), len(rows)), after))
        return [part for part in parts if len(part[1])]

    def _mark(
        self, places: Tensor, listed: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]] | None
    ) -> None:
        """Set the places of both views of what is listed for images."""
        if listed is not None:
            row, column = listed
            places[row, column] = True
            places[row, column + self.batch] = True
