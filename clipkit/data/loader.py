"""Rows in a seeded order, decoded ahead by threads, as batches of pixels."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL.Image import Image
from torch import Tensor

from clipkit.data.ahead import map_ahead
from clipkit.data.decode import NO_IMAGE, decode_image
from clipkit.data.hashing import content_key, stored_bytes
from clipkit.data.order import batch_bounds, crop_generator, view_generator
from clipkit.data.preprocess import augment_pixels, load_pixels
from clipkit.data.visits import Visits
from clipkit.errors import ConfigError, DataError, ImageError
from clipkit.packages import default_threads
from clipkit.types import Preprocessing, Reject, Sample

Pixels = UInt8[np.ndarray, "*views height width channels"]
MakeView = Callable[[Image, Preprocessing, np.random.Generator], UInt8[np.ndarray, "..."]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded rows.

    Attributes:
        pixels: 0 to 255; two pictures of each row where the loader makes views.
        indices: the number of each: its place in the loader's `rows`, or in all of them.
        visits: of each, as `Visits` numbers them.
        keys: equal numbers for images of equal bytes.
        captions: of each row, all that it has.
        labels: of each row.
    """

    pixels: UInt8[Tensor, "batch *views height width channels"]
    indices: list[int]
    visits: list[int]
    keys: list[int]
    captions: list[tuple[str, ...]]
    labels: list[str | None]


@dataclass(frozen=True, slots=True)
class _Row:
    """A decoded row."""

    visit: int
    pixels: Pixels
    key: int
    captions: tuple[str, ...]
    label: str | None


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
        view: makes a view of a picture, of which each row then gets two; see `data.views`.
        workers: threads that decode; 0 decodes when a batch is asked for; the number of cores, at
            most 8, when `None`.
        drop_last: leave out the rows that do not fill a last batch, see `batch_bounds`.
        rows: the row numbers to use; all when `None`.
        visits: which of them an epoch visits, in which order; each once when `None`.
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
        view: MakeView | None = None,
        workers: int | None = None,
        drop_last: bool = False,
        rows: Int[np.ndarray, " rows"] | None = None,
        visits: Visits | None = None,
        position: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep the settings; nothing is decoded yet."""
        self.samples = samples
        self.preprocessing = preprocessing
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self.augment = augment
        self.view = view
        self.workers = default_threads() if workers is None else workers
        self.position = position
        self._rows = rows
        self._n = len(samples) if rows is None else len(rows)
        self._known: dict[int, Reject] = {}
        self._visits = Visits([np.ones(self._n)], seed=seed) if visits is None else visits
        count = len(self._visits)
        self._bounds = batch_bounds(count, batch_size, drop_last=drop_last)
        if not len(self._bounds):
            raise ConfigError(f"batch_size: {batch_size} rows make a batch and there are {count}")
        sizes = self._bounds[:, 1] - self._bounds[:, 0]
        smallest, self._largest = int(sizes.min()), int(sizes.max())
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
        order = self._visits(epoch)
        with closing(self._decoded(order, done, epoch)) as decoded:
            for number in range(done + 1, len(self) + 1):
                share = self._share(order, number - 1)
                good = [row for row in islice(decoded, len(share)) if row is not None]
                if not good:
                    good = [self._stand_in(order, int(self._bounds[number - 1][1]), epoch)]
                last = number == len(self)
                self.position = (epoch + 1, 0) if last else (epoch, number)
                yield Batch(
                    torch.from_numpy(np.stack([row.pixels for row in good])),
                    [row.visit % self._n for row in good],
                    [row.visit for row in good],
                    [row.key for row in good],
                    [row.captions for row in good],
                    [row.label for row in good],
                )

    def _stand_in(self, order: Int[np.ndarray, " rows"], place: int, epoch: int) -> _Row:
        """Return the first row that can be decoded, from a place in the order onwards."""
        for step in range(len(order)):
            row = self._row(int(order[(place + step) % len(order)]), epoch)
            if row is not None:
                return row
        raise DataError(f"none of {len(order)} rows has an image that can be read")

    def _share(self, order: Int[np.ndarray, " rows"], batch: int) -> Int[np.ndarray, " share"]:
        """Return the rows of one batch that this process takes."""
        start, end = self._bounds[batch]
        return order[start + self.process_index : end : self.process_count]

    def _decoded(
        self, order: Int[np.ndarray, " rows"], done: int, epoch: int
    ) -> Generator[_Row | None, None, None]:
        """Yield the rows of all batches to come, while threads decode two batches ahead."""
        to_come = range(done, len(self))
        return map_ahead(
            lambda row: self._row(row, epoch),
            (int(row) for batch in to_come for row in self._share(order, batch)),
            threads=self.workers,
            ahead=2 * -(-self._largest // self.process_count),
            name=lambda visit: self._sample(visit % self._n).id,
        )

    def _row(self, visit: int, epoch: int) -> _Row | None:
        """Return a decoded row, or list why it cannot be decoded."""
        at = visit % self._n
        if at in self._known:
            return None
        sample = self._sample(at)
        try:
            pixels, key = self._pixels(sample, visit, epoch)
        except ImageError as error:
            where = str(sample.image) if isinstance(sample.image, Path) else ""
            self._known[at] = Reject(sample.id, str(error), where)
            return None
        return _Row(visit, pixels, key, sample.captions, sample.label)

    def _sample(self, at: int) -> Sample:
        return self.samples[at if self._rows is None else int(self._rows[at])]

    def _pixels(self, sample: Sample, visit: int, epoch: int) -> tuple[Pixels, int]:
        """Read the image once: for its key and for its pixels."""
        source = sample.image
        if source is None:
            raise ImageError(NO_IMAGE)
        try:
            content = stored_bytes(source)
        except OSError:
            decode_image(source)  # says what is wrong
            raise ImageError("image cannot be read") from None
        key = content_key(content)
        if not isinstance(source, Image):
            source = content
        if not self.augment and self.view is None:
            return load_pixels(source, self.preprocessing), key
        image = decode_image(source, near=2 * self.preprocessing.size)
        if self.view is None:
            rng = crop_generator(visit, seed=self.seed, epoch=epoch)
            return augment_pixels(image, self.preprocessing, rng), key
        chances = [
            view_generator(visit, view=number, seed=self.seed, epoch=epoch) for number in (0, 1)
        ]
        return np.stack([self.view(image, self.preprocessing, rng) for rng in chances]), key
