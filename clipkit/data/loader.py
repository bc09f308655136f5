"""Rows in a seeded order, decoded ahead by threads, as batches of pixels."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from clipkit.data.decode import decode_image
from clipkit.data.preprocess import augment_pixels, load_pixels
from clipkit.errors import ConfigError, DataError, ImageError
from clipkit.packages import default_threads
from clipkit.types import Preprocessing, Reject, Sample

Pixels = UInt8[np.ndarray, "height width channels"]

_ORDER, _CAPTION, _CROP, _FLIP = (
    0,
    1,
    2,
    3,
)  # streams of randomness that must not repeat one another


def sample_order(n: int, *, seed: int, epoch: int) -> Int[np.ndarray, " rows"]:
    """Return the order of `n` rows in one epoch: a function of its arguments alone."""
    order: np.ndarray = np.random.default_rng([seed, epoch, _ORDER]).permutation(n)
    return order


def caption_choice(
    counts: Int[np.ndarray, " rows"], *, seed: int, epoch: int
) -> Int[np.ndarray, " rows"]:
    """Return which of its captions each row shows in one epoch: a function of its arguments.

    Args:
        counts: how many captions each row has, at least one.
        seed: of the run.
        epoch: counted from 0.
    """
    draws = np.random.default_rng([seed, epoch, _CAPTION]).random(len(counts))
    chosen: np.ndarray = (draws * counts).astype(np.int64)
    return chosen


def flip_choice(n: int, *, seed: int, epoch: int) -> Bool[np.ndarray, " rows"]:
    """Return which rows are mirrored in one epoch, half of them: a function of its arguments."""
    chosen: np.ndarray = np.random.default_rng([seed, epoch, _FLIP]).random(n) < 0.5
    return chosen


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded rows.

    Attributes:
        pixels: 0 to 255.
        indices: the row number of each.
    """

    pixels: UInt8[Tensor, "batch height width channels"]
    indices: list[int]


class Loader:
    """Batches of one process, in an order that any process can work out at any step.

    The rows of an epoch are dealt out to the processes in turn; batch k holds the rows at places
    `k * batch_size` onwards of this process's share. A row that cannot be decoded is listed in
    `rejects`, and the next row half an epoch further on stands in for it, so that the batches
    after it stay what they were. The rows of a last batch that is not full are left out; another
    epoch's order brings them back.

    Args:
        samples: rows with an image.
        preprocessing: what the model wants.
        batch_size: rows a batch, of this process.
        seed: of order and crops.
        process_index: which share of each batch this process takes.
        process_count: how many processes share the rows.
        augment: random crops instead of the centre.
        workers: threads that decode; the number of cores, at most 8, when `None`.
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
        position: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep the settings; nothing is decoded yet."""
        self.samples = samples
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self.augment = augment
        self.workers = workers or default_threads()
        self.position = position
        self._known: dict[int, str] = {}
        if not len(self):
            need = batch_size * process_count
            raise ConfigError(f"batch_size: {need} rows make a batch and there are {len(samples)}")

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self.samples) // (self.batch_size * self.process_count)

    @property
    def rejects(self) -> list[Reject]:
        """Return the rows that could not be decoded so far, in the order of the rows."""
        return [Reject(self.samples[row].id, why) for row, why in sorted(self._known.items())]

    def epoch(self) -> Iterator[Batch]:
        """Yield the rest of the epoch at `position`, which moves along.

        Raises:
            DataError: not one of the rows can be decoded.
        """
        epoch, done = self.position
        share = sample_order(len(self.samples), seed=self.seed, epoch=epoch)
        share = share[self.process_index :: self.process_count]
        used = share[done * self.batch_size : len(self) * self.batch_size]
        with closing(self._decoded(used, epoch)) as decoded:
            at = done * self.batch_size
            while rows := list(islice(decoded, self.batch_size)):
                good = [
                    (int(share[at + i]), pixels)
                    if not isinstance(pixels, str)
                    else self._stand_in(share, at + i, epoch)
                    for i, pixels in enumerate(rows)
                ]
                at += len(rows)
                last = at == len(self) * self.batch_size
                self.position = (epoch + 1, 0) if last else (epoch, at // self.batch_size)
                stacked = torch.from_numpy(np.stack([pixels for _, pixels in good]))
                yield Batch(stacked, [row for row, _ in good])

    def _stand_in(
        self, share: Int[np.ndarray, " rows"], place: int, epoch: int
    ) -> tuple[int, Pixels]:
        """Return the first row that can be decoded, from half an epoch further on."""
        for step in range(len(share)):
            row = int(share[(place + len(share) // 2 + step) % len(share)])
            pixels = self._pixels(row, epoch)
            if not isinstance(pixels, str):
                return row, pixels
        raise DataError(f"none of {len(share)} rows has an image that can be read")

    def _decoded(
        self, rows: Int[np.ndarray, " rows"], epoch: int
    ) -> Generator[Pixels | str, None, None]:
        waiting: deque[Future[Pixels | str]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clipkit-loader")
        try:
            for row in rows:
                waiting.append(pool.submit(self._pixels, int(row), epoch))
                if len(waiting) == 2 * self.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, row: int, epoch: int) -> Pixels | str:
        """Return a row's pixels, or the reason why there are none."""
        if row in self._known:
            return self._known[row]
        sample = self.samples[row]
        try:
            if sample.image is None:
                raise ImageError("row has no image")
            if not self.augment:
                return load_pixels(sample.image, self.preprocessing)
            image = decode_image(sample.image, near=2 * self.preprocessing.size)
            rng = np.random.default_rng([self.seed, epoch, _CROP, row])
            return augment_pixels(image, self.preprocessing, rng)
        except ImageError as error:
            self._known[row] = str(error)
            return str(error)
