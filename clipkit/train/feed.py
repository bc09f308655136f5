"""What each step of a run is fed: pairs, views of pictures, or both."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clipkit.data.dataset import Dataset
from clipkit.errors import ConfigError
from clipkit.train.batches import PairBatch, PairBatches
from clipkit.train.captions import Shortener
from clipkit.train.view_batches import ViewBatch, ViewBatches
from clipkit.types import Reject


@dataclass(frozen=True, slots=True)
class StepBatch:
    """This process's share of what a step learns from.

    Attributes:
        pairs: of pictures and captions; `None` where the run has no term of them.
        views: two of each picture; likewise.
    """

    pairs: PairBatch | None
    views: ViewBatch | None = None


class Feed:
    """The batches of a run from any step on.

    An epoch is one pass over what has more batches of the two; the other begins anew meanwhile.
    Where both have the same rows and batches of one size, a step has views of the pictures of its
    pairs.

    Args:
        pairs: batches of pairs.
        views: batches of views.

    Raises:
        ConfigError: when there are neither.
    """

    def __init__(self, pairs: PairBatches | None, views: ViewBatches | None = None) -> None:
        """Keep both."""
        if pairs is None and views is None:
            raise ConfigError("loss: is null and there are no views: nothing would be learned")
        self.pairs, self.views = pairs, views
        self._all = [some for some in (pairs, views) if some is not None]

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return max(len(some) for some in self._all)

    @property
    def data(self) -> Dataset:
        """All rows."""
        return self._all[0].data

    @property
    def batch_size(self) -> int:
        """Pairs of a step, else pictures, over all processes."""
        return self._all[0].batch_size

    @property
    def process_count(self) -> int:
        """How many processes share a batch."""
        return self._all[0].process_count

    @property
    def shorten(self) -> Shortener | None:
        """What counts captions; `None` where there are none."""
        return None if self.pairs is None else self.pairs.shorten

    @property
    def skipped(self) -> list[Reject]:
        """Rows whose images could not be decoded so far, by their ids."""
        found = {reject.id: reject for some in self._all for reject in some.skips.rejects()}
        return [reject for _, reject in sorted(found.items())]

    def skip(self, rejects: Iterable[Reject]) -> None:
        """Count rows as skipped, such as those that a run had found before it was resumed."""
        self._all[0].skips.add(rejects)

    def batches(self, step: int) -> Iterator[StepBatch]:
        """Yield batches without an end, from a step's on."""
        pairs = None if self.pairs is None else _endless(self.pairs, step)
        views = None if self.views is None else _endless(self.views, step)
        while True:
            yield StepBatch(
                None if pairs is None else next(pairs), None if views is None else next(views)
            )


def _endless(source: PairBatches | ViewBatches, step: int) -> Iterator[Any]:
    """Yield the batches of one epoch after the other, from a step's on."""
    epoch, done = divmod(step, len(source))
    while True:
        yield from source.epoch(epoch, done)
        epoch, done = epoch + 1, 0
