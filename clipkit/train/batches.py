"""What a training step is fed: features of frozen towers from the cache, else from the loader."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import Dataset, caption_key
from clipkit.data.loader import Loader, caption_choice, flip_choice, sample_order
from clipkit.data.preprocess import normalize
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.types import Reject


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A batch of pairs on the model's device.

    Attributes:
        images: the frozen image tower's features [batch, features], or images [batch, 3, h, w].
        texts: the frozen text tower's features [batch, features], or tokens.
        image_keys: equal numbers for equal images.
        text_keys: equal numbers for equal captions.
    """

    images: Tensor
    texts: Tensor | dict[str, Tensor]
    image_keys: Int[Tensor, " batch"]
    text_keys: Int[Tensor, " batch"]


class PairBatches:
    """Batches in an order that is a function of seed and epoch alone.

    Args:
        model: says which towers are frozen, and how images and texts are prepared.
        data: rows with an image and at least one caption are used.
        cache: encodes frozen towers once.
        batch_size: pairs a step over all processes; all rows when there are fewer.
        seed: of order, choice of caption and augmentation.
        augment: random crops; the image tower is then never cached.
        flip: mirror half of the images; wrong where captions say left or right.
        process_index: which part of each batch this process takes.
        process_count: into how many parts a batch is split.

    Raises:
        DataError: when fewer than two rows can be used.
    """

    def __init__(
        self,
        model: DualEncoder,
        data: Dataset,
        cache: FeatureCache,
        *,
        batch_size: int,
        seed: int,
        augment: bool = False,
        flip: bool = False,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Encode what is frozen."""
        self.model = model
        self.seed = seed
        self.augment = augment
        self.flip = flip
        self.process_index = process_index
        self.process_count = process_count
        self.skipped: list[Reject] = []
        rows = [row for row, s in enumerate(data) if s.image is not None and s.captions]
        self.image_features: Tensor | None = None
        self.mirrored_features: Tensor | None = None
        if frozen(model.image_tower) and not augment:
            features, kept = cache.image_tower(model, data)
            where = {row: at for at, row in enumerate(kept)}
            rows = [row for row in rows if row in where]
            places = [where[row] for row in rows]
            self.image_features = features[places]
            if flip:
                self.mirrored_features = cache.image_tower(model, data, mirrored=True)[0][places]
        if len(rows) < 2:
            raise DataError(
                f"{data.name}: training needs two rows with image and caption; it has {len(rows)}"
            )
        self.samples = [data[row] for row in rows]
        self.batch_size = min(batch_size, len(rows))
        if self.batch_size % process_count:
            raise ConfigError(
                f"batch_size: {self.batch_size} is not a multiple of {process_count} processes"
            )
        captions = [caption for sample in self.samples for caption in sample.captions]
        counts = [len(sample.captions) for sample in self.samples]
        self.counts = torch.tensor(counts)
        self.first = self.counts.cumsum(0) - self.counts
        numbers: dict[str, int] = {}
        self.captions = captions
        self.caption_keys = torch.tensor(
            [numbers.setdefault(caption_key(c), len(numbers)) for c in captions]
        )
        self.image_keys = torch.tensor(data.image_keys())[rows]
        self.text_features: Tensor | None = None
        if frozen(model.text_tower):
            self.text_features = cache.text_tower(model, captions)

    def __len__(self) -> int:
        """Return the steps of an epoch; a last batch that is not full is left out."""
        return len(self.samples) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[PairBatch]:
        """Yield this process's share of the batches of one epoch."""
        if self.image_features is None:
            yield from self._live(epoch)
            return
        order = torch.from_numpy(sample_order(len(self.samples), seed=self.seed, epoch=epoch))
        choice = torch.from_numpy(caption_choice(self.counts.numpy(), seed=self.seed, epoch=epoch))
        mirror = torch.from_numpy(flip_choice(len(self.samples), seed=self.seed, epoch=epoch))
        for step in range(len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            rows = rows[self.process_index :: self.process_count]
            images = self.image_features[rows]
            if self.mirrored_features is not None:
                images = torch.where(mirror[rows, None], self.mirrored_features[rows], images)
            yield self._batch(images, rows, (self.first + choice)[rows])

    def _live(self, epoch: int) -> Iterator[PairBatch]:
        """Yield batches whose images are decoded now."""
        loader = Loader(
            self.samples,
            self.model.preprocessing,
            batch_size=self.batch_size // self.process_count,
            seed=self.seed,
            process_index=self.process_index,
            process_count=self.process_count,
            augment=self.augment,
            position=(epoch, 0),
        )
        choice = torch.from_numpy(caption_choice(self.counts.numpy(), seed=self.seed, epoch=epoch))
        mirror = torch.from_numpy(flip_choice(len(self.samples), seed=self.seed, epoch=epoch))
        for batch in loader.epoch():
            rows = torch.as_tensor(batch.indices)
            images = normalize(batch.pixels.to(self.model.device), self.model.preprocessing)
            if self.flip:
                turned = mirror[rows].to(images.device)[:, None, None, None]
                images = torch.where(turned, images.flip(-1), images)
            yield self._batch(images, rows, (self.first + choice)[rows])
        known = {reject.id for reject in self.skipped}
        self.skipped += [reject for reject in loader.rejects if reject.id not in known]

    def _batch(self, images: Tensor, rows: Tensor, captions: Tensor) -> PairBatch:
        """Put the two sides of a batch on the device."""
        device = self.model.device
        texts: Tensor | dict[str, Tensor]
        if self.text_features is not None:
            texts = self.text_features[captions].to(device)
        else:
            tokens = self.model.tokenize([self.captions[at] for at in captions.tolist()])
            texts = {name: value.to(device) for name, value in tokens.items()}
        return PairBatch(
            images.to(device),
            texts,
            self.image_keys[rows].to(device),
            self.caption_keys[captions].to(device),
        )
