"""Two views of each picture of a batch, with what is known of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from clipkit.data.dataset import label_key
from clipkit.data.loader import Loader, MakeView
from clipkit.data.order import batch_bounds
from clipkit.data.sources import Sources
from clipkit.data.visits import Visits
from clipkit.errors import DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import check_shares
from clipkit.train.skips import Skips


@dataclass(frozen=True, slots=True)
class ViewPart:
    """Views that pass through the model at once, on the CPU, as pixels from 0 to 255.

    Attributes:
        first: one view of each picture.
        second: another one of each.
    """

    first: UInt8[Tensor, "batch height width channels"]
    second: UInt8[Tensor, "batch height width channels"]


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """This process's share of a batch of views, on the CPU.

    Attributes:
        first: one view of each picture, as pixels from 0 to 255.
        second: another one of each.
        rows: which rows of the data they are.
        image_keys: equal numbers for equal pictures.
        labels: equal numbers for equal labels, -1 for none.
    """

    first: UInt8[Tensor, "batch height width channels"]
    second: UInt8[Tensor, "batch height width channels"]
    rows: Int[Tensor, " batch"]
    image_keys: Int[Tensor, " batch"]
    labels: Int[Tensor, " batch"]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.rows)

    def parts(self, size: int | None) -> list[ViewPart]:
        """Cut the batch into parts of at most `size` pictures, their sizes differing by one."""
        bounds = batch_bounds(len(self), size or len(self), drop_last=False)
        return [ViewPart(self.first[a:b], self.second[a:b]) for a, b in bounds.tolist()]


class ViewBatches:
    """Batches of views in an order that is a function of seed and epoch alone.

    Args:
        model: says how images are prepared.
        sources: rows with an image, of those that are for views, are used.
        view: makes a view of a picture.
        batch_size: pictures a step over all processes; all rows when there are fewer.
        seed: of order and views.
        process_index: which part of each batch this process takes.
        process_count: into how many parts a batch is split.
        workers: threads that decode, see `Loader`.
        drop_last: leave out the rows that do not fill a last batch.

    Attributes:
        bounds: where each batch begins and ends in an epoch's order.
        skips: rows whose images could not be decoded.

    Raises:
        DataError: when fewer than two rows can be used.
    """

    def __init__(
        self,
        model: DualEncoder,
        sources: Sources,
        view: MakeView,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        drop_last: bool = False,
    ) -> None:
        """Find the rows."""
        self.model, self.view = model, view
        self.data = sources.data
        self.rows = sources.rows("views")
        if len(self.rows) < 2:
            raise DataError(
                f"{self.data.name}: views need two rows with an image; it has {len(self.rows)}"
            )
        self.visits = Visits(sources.weights(self.rows), seed=seed)
        self.batch_size = min(batch_size, len(self.visits))
        self.bounds = batch_bounds(len(self.visits), self.batch_size, drop_last=drop_last)
        check_shares(self.bounds, process_count)
        self.seed, self.workers, self.drop_last = seed, workers, drop_last
        self.process_index, self.process_count = process_index, process_count
        self.skips = Skips()

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return len(self.bounds)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[ViewBatch]:
        """Yield this process's share of the batches of one epoch, from number `done` on."""
        loader = Loader(
            self.data.samples,
            self.model.preprocessing,
            batch_size=self.batch_size,
            seed=self.seed,
            process_index=self.process_index,
            process_count=self.process_count,
            view=self.view,
            workers=self.workers,
            drop_last=self.drop_last,
            rows=None if len(self.rows) == len(self.data) else self.rows,
            visits=self.visits,
            position=(epoch, done),
        )
        self.skips.follow(loader)
        rows = torch.from_numpy(self.rows)
        for batch in loader.epoch():
            yield ViewBatch(
                batch.pixels[:, 0],
                batch.pixels[:, 1],
                rows[batch.indices],
                torch.tensor(batch.keys),
                torch.tensor([label_key(label) for label in batch.labels]),
            )
