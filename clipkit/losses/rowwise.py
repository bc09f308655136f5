"""Losses of each row of a matrix of logits by itself, some rows at a time.

A row is an anchor, or a query, and its columns are what it is compared with. Nothing needs to be
known of other rows, so that the gradients are worked out as soon as the logits are there.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses.blockwise import LogitBlocks, log_sum_exp

Meetings = tuple[Bool[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]
"""Of some rows: which columns are positives, and which are left out; the others are negatives."""


def softmax_rows_loss(blocks: LogitBlocks, meet: Callable[[range], Meetings]) -> Float[Tensor, ""]:
    """Return the mean over rows of the cross-entropy between their softmax and their positives.

    The target is spread evenly over the positives of a row. A row without one does not count; the
    loss is 0 where no row has any.

    Args:
        blocks: the logits.
        meet: what columns are to some rows.
    """
    with torch.no_grad():
        value, anchors = torch.zeros_like(blocks.scale), torch.zeros_like(blocks.scale)
        for rows in blocks.rows():
            positive, left_out = meet(rows)
            count = positive.sum(1)
            anchor, each = count > 0, 1 / count.clamp(min=1).to(value.dtype)
            logits, scratch = blocks.take(rows), blocks.scratch(rows)
            matched = torch.mul(logits, positive, out=scratch).sum(1) * each
            logits.masked_fill_(left_out, -torch.inf)
            total = log_sum_exp(logits, 1, scratch)
            value += (total - matched)[anchor].sum()
            anchors += anchor.sum()
            if blocks.needs_gradient:
                logits.sub_(total[:, None]).exp_()
                logits -= torch.mul(positive, each[:, None], out=scratch)
                logits[~anchor] = 0
                blocks.spend(rows, logits)
        anchors = blocks.share.total(anchors)
    return blocks.finish(value, 1) / anchors.clamp(min=1)


def own_columns(rows: range, columns: int, device: torch.device) -> Bool[Tensor, "rows columns"]:
    """Say where each of some rows meets the column of its own number."""
    at = torch.arange(rows.start, rows.stop, device=device)
    return at[:, None] == torch.arange(columns, device=device)


def scale_for(
    temperature: float | None, logit_scale: Float[Tensor, ""], features: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Return the multiplier of cosines: a fixed one as exact as the features, or the model's."""
    if temperature is None:
        return logit_scale
    dtype = torch.promote_types(features.dtype, torch.float32)
    return features.new_full((), 1 / temperature, dtype=dtype)


def with_unused(loss: Float[Tensor, ""], *unused: Tensor | None) -> Float[Tensor, ""]:
    """Give a gradient of 0 to what a loss does not use.

    Where processes average gradients, a parameter that got none would keep them waiting.
    """
    for value in unused:
        if value is not None:
            loss = loss + 0 * value.to(loss.dtype).sum()
    return loss


def check_temperature(temperature: float | None) -> float | None:
    """Return a temperature that can be used.

    Raises:
        ConfigError: when it is not a number above 0.
    """
    if temperature is not None and not 0 < temperature < math.inf:
        raise ConfigError(
            f"loss: temperature must be a number above 0, or none for the model's logit scale, not"
            f" {temperature}"
        )
    return temperature


def check_margin(margin: float) -> float:
    """Return a margin that can be used.

    Raises:
        ConfigError: when it is not a number above 0.
    """
    if not 0 < margin < math.inf:
        raise ConfigError(f"loss: margin must be a number above 0, not {margin}")
    return margin
