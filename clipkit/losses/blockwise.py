"""Losses over all images and texts of a batch, some rows of the matrix of logits at a time.

The matrix is never held: a block of rows is worked out, used and overwritten. The gradients are
worked out in the same go as the loss, and are kept instead of what a backward pass would need.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipkit.errors import ConfigError
from clipkit.losses.share import WHOLE, Share

CHUNK_SIZE = 1024
"""Rows of logits at a time, where nothing else is said."""


def check_chunk_size(chunk_size: int) -> int:
    """Return a number of rows that is one.

    Raises:
        ConfigError: when it is not at least 1.
    """
    if chunk_size < 1:
        raise ConfigError(f"loss: chunk_size must be at least 1, not {chunk_size}")
    return chunk_size


class LogitBlocks:
    """The rows of a matrix of logits that are one process's, and the gradients through them.

    There may be more or fewer columns than rows.

    logits[i, j] = scale * (image i · text j) + bias

    They are in float32, or in float64 where the image features are.

    Args:
        image_features: of the rows.
        text_features: of the columns.
        logit_scale: the multiplier (after exp).
        logit_bias: `None` for none.
        chunk_size: rows of a block.
        share: whose rows, and how to sum over processes; all rows when `None`.
    """

    def __init__(
        self,
        image_features: Float[Tensor, "batch dim"],
        text_features: Float[Tensor, "columns dim"],
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None,
        *,
        chunk_size: int,
        share: Share | None,
    ) -> None:
        """Make room for one block of logits, one of scratch, and the gradients that are needed."""
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        image, text = image_features.to(dtype), text_features.to(dtype)
        scale, bias = logit_scale.to(dtype), None if logit_bias is None else logit_bias.to(dtype)
        self._inputs = (image, text, scale, bias)
        self.image, self.text, self.scale = image.detach(), text.detach(), scale.detach()
        self.bias = None if bias is None else bias.detach()
        self.share = share or WHOLE
        self.batch = len(self.image)
        self._rows, self._chunk_size = self.share.rows(self.batch), chunk_size
        height = min(chunk_size, len(self._rows))
        self._block = self.image.new_empty(height, len(self.text))
        self._scratch = torch.empty_like(self._block)
        self._held: range | None = None

        needed = [
            torch.is_grad_enabled() and given is not None and given.requires_grad
            for given in self._inputs
        ]
        self.needs_gradient = any(needed)
        self._needed = needed
        self._d_image = torch.zeros_like(self.image) if needed[0] else None
        self._d_text = torch.zeros_like(self.text) if needed[1] else None
        self._d_scale, self._d_bias = torch.zeros_like(self.scale), torch.zeros_like(self.scale)

    def rows(self) -> Iterator[range]:
        """Yield this process's rows, a block at a time."""
        for start in range(self._rows.start, self._rows.stop, self._chunk_size):
            yield range(start, min(start + self._chunk_size, self._rows.stop))

    def rows_again(self) -> Iterator[range]:
        """Yield them from the last to the first: the last block is still there."""
        yield from reversed(list(self.rows()))

    def logits(self, rows: range) -> Float[Tensor, "rows columns"]:
        """Return the logits of some rows, in a place that the next rows will use."""
        block = self._block[: len(rows)]
        if rows != self._held:
            scaled = self.image[rows.start : rows.stop] * self.scale
            torch.mm(scaled, self.text.T, out=block)
            if self.bias is not None:
                block += self.bias
            self._held = rows
        return block

    def take(self, rows: range) -> Float[Tensor, "rows columns"]:
        """Return the logits of some rows, to be changed in place."""
        block = self.logits(rows)
        self._held = None
        return block

    def scratch(self, rows: range) -> Float[Tensor, "rows columns"]:
        """Return room for as much again, with anything in it."""
        return self._scratch[: len(rows)]

    def spend(self, rows: range, d_logits: Float[Tensor, "rows columns"]) -> None:
        """Add up the gradients that the gradient of some rows' logits leads to.

        Args:
            rows: whose.
            d_logits: what became of their logits.
        """
        image = self.image[rows.start : rows.stop]
        if self._needed[0] or self._needed[2]:
            pulled = d_logits @ self.text
            self._d_scale += (image * pulled).sum()
            if self._d_image is not None:
                self._d_image[rows.start : rows.stop] = pulled
        if self._d_text is not None:
            self._d_text.addmm_(d_logits.T, image)
        if self._needed[3]:
            self._d_bias += d_logits.sum()

    def finish(self, value: Float[Tensor, ""], divisor: float) -> Float[Tensor, ""]:
        """Return the loss of all processes with its gradients.

        Args:
            value: the sum over this process's rows.
            divisor: of it and of the gradients.
        """
        sums = torch.stack([value, self._d_scale, self._d_bias])
        value, d_scale, d_bias = self.share.total(sums).div_(divisor).unbind()
        if not self.needs_gradient:
            return value
        found: list[Tensor | None] = []
        for gradient in (self._d_image, self._d_text):
            whole = None if gradient is None else self.share.total(gradient)
            found.append(None if whole is None else whole.mul_(self.scale / divisor))
        found += [d_scale, None if self.bias is None else d_bias]
        attached: Tensor = _WithGradients.apply(value, found, *self._inputs)
        return attached


class _WithGradients(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: list[Tensor | None], *inputs: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        found = (None if known is None else known * d_value for known in ctx.saved_tensors)
        return None, None, *found


@runtime_checkable
class Targets(Protocol):
    """What the softmax over a row, and that over a column, should be."""

    def prepare(self, logits: Float[Tensor, "rows batch"], rows: range) -> Float[Tensor, " rows"]:
        """Return the sum over each row of logits times both targets, and leave out what is."""

    def leave_out(self, logits: Float[Tensor, "rows batch"], rows: range) -> None:
        """Put -inf where an image and a text should not meet."""

    def subtract(self, softmaxes: Float[Tensor, "rows batch"], rows: range) -> None:
        """Take both targets from the sum of both softmaxes."""


class NoTargets:
    """For the softmaxes alone."""

    def prepare(self, logits: Float[Tensor, "rows batch"], rows: range) -> Float[Tensor, " rows"]:
        """Return zeros."""
        return logits.new_zeros(len(rows))


def softmax_loss(blocks: LogitBlocks, targets: Targets) -> Float[Tensor, ""]:
    """Return the mean over images and texts of the cross-entropy of their softmax.

    Rows are images and columns texts. The first pass finds the log of each softmax's denominator;
    the second, only where a gradient is needed, the softmaxes.
    """
    with torch.no_grad():
        by_row, by_column, matched = log_sum_exps(blocks, targets)
        own = blocks.share.rows(blocks.batch)
        value = (by_row + by_column - matched)[own.start : own.stop].sum()
        if blocks.needs_gradient:
            for rows in blocks.rows_again():
                logits = blocks.take(rows)
                targets.leave_out(logits, rows)
                softmaxes(logits, by_row, by_column, rows, scratch=blocks.scratch(rows))
                targets.subtract(logits, rows)
                blocks.spend(rows, logits)
    return blocks.finish(value, 2 * blocks.batch)


def log_sum_exps(
    blocks: LogitBlocks, targets: Targets | NoTargets
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return log sum exp of each row and of each column, and what `targets.prepare` gives.

    Those of columns are of all processes' rows; the other two are of this process's, and 0
    elsewhere.
    """
    by_row, matched = blocks.image.new_zeros(2, blocks.batch)
    by_column = torch.full_like(by_row, -torch.inf)
    for rows in blocks.rows():
        here = slice(rows.start, rows.stop)
        logits, scratch = blocks.logits(rows), blocks.scratch(rows)
        matched[here] = targets.prepare(logits, rows)
        by_row[here] = log_sum_exp(logits, 1, scratch)
        torch.logaddexp(by_column, log_sum_exp(logits, 0, scratch), out=by_column)
    if blocks.share.count > 1:
        # Each process writes into a row of its own, so that a sum gathers.
        parts = by_column.new_zeros(blocks.share.count, blocks.batch)
        parts[blocks.share.rank] = by_column
        by_column = blocks.share.total(parts).logsumexp(0)
    return by_row, by_column, matched


def log_sum_exp(
    logits: Float[Tensor, "rows columns"], dim: int, scratch: Float[Tensor, "rows columns"]
) -> Float[Tensor, " left"]:
    """Return `logits.logsumexp(dim)`; it allocates nothing of the size of `logits`."""
    # A column may have nothing left in these rows: -inf - -inf would not be a number.
    largest = logits.amax(dim, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    torch.sub(logits, largest, out=scratch).exp_()
    return scratch.sum(dim).log_().add_(largest.squeeze(dim))


def softmaxes(
    logits: Float[Tensor, "rows batch"],
    by_row: Float[Tensor, " batch"],
    by_column: Float[Tensor, " batch"],
    rows: range,
    *,
    scratch: Float[Tensor, "rows batch"],
) -> None:
    """Put in place of logits the sum of their softmax over the row and that over the column."""
    torch.sub(logits, by_row[rows.start : rows.stop, None], out=scratch).exp_()
    logits.sub_(by_column).exp_().add_(scratch)
