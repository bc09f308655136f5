"""Rows in a seeded order, decoded ahead by threads, as batches of pixels."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL.Image import Image
from torch import Tensor

from clipkit.data.ahead import map_ahead
from clipkit.data.decode import decode_image
from clipkit.data.hashing import content_key, stored_bytes
from clipkit.data.preprocess import augment_pixels, load_pixels
from clipkit.errors import ConfigError, DataError, ImageError
from clipkit.packages import default_threads
from clipkit.types import Preprocessing, Reject, Sample

Pixels = UInt8[np.ndarray, "height width channels"]

# Streams of randomness that must not repeat one another.
_ORDER, _CAPTION, _CROP, _FLIP, _SENTENCE = range(5)


def sample_order(n: int, *, seed: int, epoch: int) -> Int[np.ndarray, " rows"]:
    """Return the order of `n` rows in one epoch: a function of its arguments alone."""
    order: np.ndarray = np.random.default_rng([seed, epoch, _ORDER]).permutation(n)
    return order


def caption_draws(n: int, *, seed: int, epoch: int) -> Float[np.ndarray, " rows"]:
    """Return for each row how far down its captions the one lies that it shows, from 0 to 1."""
    return np.random.default_rng([seed, epoch, _CAPTION]).random(n)


def sentence_draws(n: int, *, seed: int, epoch: int) -> Float[np.ndarray, " rows"]:
    """Return how far down the sentences of its caption the one lies that a row shows, 0 to 1."""
    return np.random.default_rng([seed, epoch, _SENTENCE]).random(n)


def flip_choice(n: int, *, seed: int, epoch: int) -> Bool[np.ndarray, " rows"]:
    """Return which rows are mirrored in one epoch, half of them: a function of its arguments."""
    chosen: np.ndarray = np.random.default_rng([seed, epoch, _FLIP]).random(n) < 0.5
    return chosen


def batch_bounds(n: int, batch_size: int, *, drop_last: bool) -> list[tuple[int, int]]:
    """Return where each batch of `n` rows in order begins and ends.

    Args:
        n: rows of an epoch.
        batch_size: rows a batch, at most.
        drop_last: all batches are full and what is left over waits for another epoch; else each
            row is in one batch, and the sizes of the batches differ by one at most.

    >>> batch_bounds(10, 4, drop_last=False)
    [(0, 3), (3, 6), (6, 10)]
    """
    if drop_last:
        return [(at, at + batch_size) for at in range(0, n - batch_size + 1, batch_size)]
    count = -(-n // batch_size)
    return [(k * n // count, (k + 1) * n // count) for k in range(count)]


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded rows.

    Attributes:
        pixels: 0 to 255.
        indices: the number of each: its place in the loader's `rows`, or in all of them.
        keys: equal numbers for images of equal bytes.
        captions: of each row, all that it has.
    """

    pixels: UInt8[Tensor, "batch height width channels"]
    indices: list[int]
    keys: list[int]
    captions: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Row:
    """A decoded row."""

    index: int
    pixels: Pixels
    key: int
    captions: tuple[str, ...]


class Loader:
    """Batches of one process, in an order that any process can work out at any step.

    Each batch of the epoch's order is dealt out to the processes in turn: of P processes, number p
    takes its rows p, p + P, p + 2P and so on. So each row is seen once an epoch, whatever the
    numbers of processes and workers. A row that cannot be decoded is listed in `rejects` and is
    missing from its batch; where nothing would be left, the next row that can be decoded stands in.

    Args:
        samples: rows with an image; a sequence that may read them from a disk.
        preprocessing: what the model wants.
        batch_size: rows a batch at most, over all processes.
        seed: of order and crops.
        process_index: which share of each batch this process takes.
        process_count: how many processes share the rows.
        augment: random crops instead of the centre.
        workers: threads that decode; 0 decodes when a batch is asked for; the number of cores, at
            most 8, when `None`.
        drop_last: leave out the rows that do not fill a last batch, see `batch_bounds`.
        rows: the row numbers to use; all when `None`.
        position: epoch, and batches of it that were taken already.

    Attributes:
        position: where the next batch will come from; may be set.

    Raises:
        ConfigError: there are fewer rows than one batch needs.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        augment: bool = False,
        workers: int | None = None,
        drop_last: bool = False,
        rows: Int[np.ndarray, " rows"] | None = None,
        position: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep the settings; nothing is decoded yet."""
        self.samples = samples
        self.preprocessing = preprocessing
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self.augment = augment
        self.workers = default_threads() if workers is None else workers
        self.position = position
        self._rows = rows
        self._n = len(samples) if rows is None else len(rows)
        self._known: dict[int, Reject] = {}
        self._bounds = batch_bounds(self._n, batch_size, drop_last=drop_last)
        if not self._bounds:
            raise ConfigError(f"batch_size: {batch_size} rows make a batch and there are {self._n}")
        smallest = min(end - start for start, end in self._bounds)
        if smallest < process_count:
            raise ConfigError(
                f"batch_size: batches of {smallest} rows cannot be shared by {process_count}"
                " processes"
            )

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._bounds)

    @property
    def rejects(self) -> list[Reject]:
        """Return the rows that could not be decoded so far, in the order of the rows."""
        return [reject for _, reject in sorted(self._known.items())]

    def epoch(self) -> Iterator[Batch]:
        """Yield the rest of the epoch at `position`, which moves along.

        Raises:
            DataError: not one of the rows can be decoded.
        """
        epoch, done = self.position
        order = sample_order(self._n, seed=self.seed, epoch=epoch)
        shares = [
            order[start + self.process_index : end : self.process_count]
            for start, end in self._bounds[done:]
        ]
        with closing(self._decoded(shares, epoch)) as decoded:
            for number, share in enumerate(shares, done + 1):
                good = [row for row in islice(decoded, len(share)) if row is not None]
                if not good:
                    good = [self._stand_in(order, self._bounds[number - 1][1], epoch)]
                last = number == len(self)
                self.position = (epoch + 1, 0) if last else (epoch, number)
                yield Batch(
                    torch.from_numpy(np.stack([row.pixels for row in good])),
                    [row.index for row in good],
                    [row.key for row in good],
                    [row.captions for row in good],
                )

    def _stand_in(self, order: Int[np.ndarray, " rows"], place: int, epoch: int) -> _Row:
        """Return the first row that can be decoded, from a place in the order onwards."""
        for step in range(len(order)):
            row = self._row(int(order[(place + step) % len(order)]), epoch)
            if row is not None:
                return row
        raise DataError(f"none of {len(order)} rows has an image that can be read")

    def _decoded(
        self, shares: list[Int[np.ndarray, " _"]], epoch: int
    ) -> Generator[_Row | None, None, None]:
        """Yield the rows of all shares in order, while threads decode two batches ahead."""
        return map_ahead(
            lambda row: self._row(row, epoch),
            (int(row) for share in shares for row in share),
            threads=self.workers,
            ahead=2 * max(map(len, shares), default=1),
            name=lambda row: self._sample(row).id,
        )

    def _row(self, at: int, epoch: int) -> _Row | None:
        """Return a decoded row, or list why it cannot be decoded."""
        if at in self._known:
            return None
        sample = self._sample(at)
        try:
            pixels, key = self._pixels(sample, at, epoch)
        except ImageError as error:
            where = str(sample.image) if isinstance(sample.image, Path) else ""
            self._known[at] = Reject(sample.id, str(error), where)
            return None
        return _Row(at, pixels, key, sample.captions)

    def _sample(self, at: int) -> Sample:
        return self.samples[at if self._rows is None else int(self._rows[at])]

    def _pixels(self, sample: Sample, at: int, epoch: int) -> tuple[Pixels, int]:
        """Read the image once: for its key and for its pixels."""
        source = sample.image
        if source is None:
            raise ImageError("row has no image")
        try:
            content = stored_bytes(source)
        except OSError:
            decode_image(source)  # says what is wrong
            raise ImageError("image cannot be read") from None
        key = content_key(content)
        if not isinstance(source, Image):
            source = content
        if not self.augment:
            return load_pixels(source, self.preprocessing), key
        image = decode_image(source, near=2 * self.preprocessing.size)
        rng = np.random.default_rng([self.seed, epoch, _CROP, at])
        return augment_pixels(image, self.preprocessing, rng), key
