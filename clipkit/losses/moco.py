"""Contrast against a queue of keys that a momentum encoder gave to earlier batches."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.blockwise import CHUNK_SIZE, LogitBlocks, check_chunk_size
from clipkit.losses.positives import Duplicates, Positives
from clipkit.losses.rowwise import (
    Meetings,
    check_temperature,
    own_columns,
    scale_for,
    softmax_rows_loss,
    with_unused,
)
from clipkit.losses.share import Share


class KeyQueue(nn.Module):
    """The newest keys of earlier batches, first in, first out; all of it is in the `state_dict`.

    Args:
        size: how many keys are kept.
        dim: of a key.

    Attributes:
        features: [size, dim], float32; zeros where nothing was written yet.
        content_keys: [size]: equal numbers for keys of equal images.
        written: [size]: where there is a key.
        position: where the next one goes.

    Raises:
        ConfigError: when it would hold nothing.

    Example:
        >>> queue = KeyQueue(size=2, dim=1)
        >>> queue.enqueue(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([7, 8, 9]))
        >>> queue.content_keys.tolist()
        [9, 8]
    """

    features: Float[Tensor, "size dim"]
    content_keys: Int[Tensor, " size"]
    written: Tensor
    position: Tensor

    def __init__(self, *, size: int, dim: int) -> None:
        """Make room."""
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            if value < 1:
                raise ConfigError(f"loss: a queue's {name} must be at least 1, not {value}")
        self.register_buffer("features", torch.zeros(size, dim, dtype=torch.float32))
        self.register_buffer("content_keys", torch.zeros(size, dtype=torch.long))
        self.register_buffer("written", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(
        self, keys: Float[Tensor, "batch dim"], content_keys: Int[Tensor, " batch"]
    ) -> None:
        """Put keys in place of the oldest; of more than there is room for, the last are kept.

        Where several processes train, each is to be given the keys of all of them in one order:
        the queues then stay equal.

        Args:
            keys: of a batch.
            content_keys: equal numbers for keys of equal images.

        Raises:
            ConfigError: when keys are of another width than the queue's.
        """
        self.check_width(keys)
        size, batch = len(self.features), len(keys)
        kept = torch.arange(max(0, batch - size), batch, device=self.features.device)
        places = (self.position + kept) % size
        self.features[places] = keys[kept].to(self.features)
        self.content_keys[places] = content_keys[kept].to(self.content_keys)
        self.written[places] = True
        self.position.copy_((self.position + batch) % size)

    def check_width(self, keys: Float[Tensor, "batch _"]) -> None:
        """Refuse keys of another width.

        Raises:
            ConfigError: when they are.
        """
        dim = self.features.shape[1]
        if keys.shape[1] != dim:
            raise ConfigError(
                f"loss: the queue holds keys of {dim} numbers, and the model's features have"
                f" {keys.shape[1]}; make them equal"
            )


class MoCoLoss(nn.Module):
    """Cross-entropy of queries over their own key and a queue (MoCo, https://arxiv.org/abs/1911.05722).

    The softmax of a query over its own key and those in the queue should fall on its own; the loss
    is the mean over queries. Queue entries of the same content as the query are no negatives unless
    `duplicates` says "ignore": with "positive" the target is spread evenly over them and its own
    key, with "mask" they are left out. Entries not written yet do not count, so that with an empty
    queue and no `batch_negatives` the loss is 0. After each step hand the keys to `enqueue`, and
    move the key encoder by `clipkit.models.momentum.momentum_update`. It is computed in float32
    (float64 for features in float64) whatever surrounds it, some queries at a time.

    Args:
        dim: of the features.
        queue_size: how many keys are kept; 65,536 in the paper.
        temperature: what cosines are divided by, 0.07 in the paper; `None` for the model's logit
            scale, which then learns.
        batch_negatives: the keys of the batch's other images are negatives as well. The loss with
            an empty queue is then that of MoCo v3 in one direction, without its factor
            (https://arxiv.org/abs/2104.02057), and `ClipLoss` from images to texts.
        chunk_size: queries at a time; the result does not depend on it.

    Raises:
        ConfigError: when an argument is out of its range.

    Example:
        >>> loss, features = MoCoLoss(dim=2, queue_size=4, temperature=1.0), torch.eye(2)
        >>> loss.enqueue(torch.tensor([[0.0, 1.0]]), torch.tensor([5]))
        >>> round(loss(features[:1], features[:1], torch.tensor(1.0)).item(), 4)
        0.3133
    """

    shares_work = True  # training hands such a loss this process's share
    similarity = "softmax"  # what it makes of a model's scores

    def __init__(
        self,
        *,
        dim: int,
        queue_size: int = 65_536,
        temperature: float | None = None,
        batch_negatives: bool = False,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        """Keep the settings, and make an empty queue."""
        super().__init__()
        self.queue = KeyQueue(size=queue_size, dim=dim)
        self.temperature = check_temperature(temperature)
        self.batch_negatives = batch_negatives
        self.chunk_size = check_chunk_size(chunk_size)

    def enqueue(
        self, keys: Float[Tensor, "batch dim"], content_keys: Int[Tensor, " batch"]
    ) -> None:
        """Put the keys of a batch into the queue, see `KeyQueue.enqueue`."""
        self.queue.enqueue(keys, content_keys)

    def forward(
        self,
        query_features: Float[Tensor, "batch dim"],
        key_features: Float[Tensor, "batch dim"],
        logit_scale: Float[Tensor, ""],
        logit_bias: Float[Tensor, ""] | None = None,
        positives: Positives | None = None,
        share: Share | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch; the queue stays as it is.

        Args:
            query_features: L2-normalised, as a rule.
            key_features: as these, of the momentum encoder; row i is the key of query i. No
                gradient reaches them.
            logit_scale: the multiplier (after exp); its gradient is 0 beside a `temperature`.
            logit_bias: what a softmax does not see; its gradient is 0.
            positives: its `image_keys` are compared with the queue's content keys, and its
                `duplicates` says what equal ones are; if `None`, no content is compared.
            share: this process's part, when several compute the loss together.

        Returns:
            A scalar in nats.

        Raises:
            ConfigError: when features are of another width than the queue's.
        """
        self.queue.check_width(key_features)
        with torch.autocast(query_features.device.type, enabled=False):
            columns = torch.cat([key_features.detach(), self.queue.features])
            blocks = LogitBlocks(
                query_features,
                columns,
                scale_for(self.temperature, logit_scale, query_features),
                None,
                chunk_size=self.chunk_size,
                share=share,
            )
            meet = _Contents(self.queue, len(query_features), positives, self.batch_negatives)
            return with_unused(softmax_rows_loss(blocks, meet), logit_scale, logit_bias)


class _Contents:
    """What the keys of a batch, and those of a queue below them, are to queries."""

    def __init__(
        self, queue: KeyQueue, batch: int, positives: Positives | None, batch_negatives: bool
    ) -> None:
        device = queue.features.device
        self.keys: Tensor | None = None
        self.duplicates: Duplicates = "ignore"
        if positives is not None and positives.duplicates != "ignore":
            self.keys = torch.cat([positives.image_keys, queue.content_keys])
            self.duplicates = positives.duplicates
        in_batch = torch.full((batch,), batch_negatives, device=device)
        self.absent = ~torch.cat([in_batch, queue.written])

    def __call__(self, rows: range) -> Meetings:
        """Return positives and what is left out of some rows."""
        own = own_columns(rows, len(self.absent), self.absent.device)
        positive, left_out = own, self.absent & ~own
        if self.keys is not None:
            same = self.keys[rows.start : rows.stop, None] == self.keys
            if self.duplicates == "positive":
                positive = own | (same & ~left_out)
            else:
                left_out = (same | self.absent) & ~own
        return positive, left_out
