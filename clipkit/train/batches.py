"""What a training step is fed: features of frozen towers from the cache, else from the loader."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import Dataset, text_key
from clipkit.data.loader import Loader
from clipkit.data.order import (
    CAPTION,
    FLIP,
    SENTENCE,
    batch_bounds,
    draws,
    draws_of,
    sample_order,
)
from clipkit.data.preprocess import normalize
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.sentences import LongCaptions
from clipkit.train.captions import CaptionTable, Shortener
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.types import Reject

CACHED_ROWS = 400_000
"""Features of frozen towers are held for up to so many rows (2 GB), else computed each epoch."""


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
        drop_last: leave out the pairs that do not fill a last batch; else each pair is seen once an
            epoch, in batches whose sizes differ by one at most.
        workers: threads that decode where nothing is cached, see `Loader`.
        long_captions: what stands for a caption that is longer than the model reads; for "pieces"
            the model's own `long_texts` says so too.

    Attributes:
        skipped: rows whose images could not be decoded.
        shorten: counts the captions that were looked at, and those that the model cuts.

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
        drop_last: bool = False,
        workers: int | None = None,
        long_captions: LongCaptions = "head",
    ) -> None:
        """Encode what is frozen."""
        self.model = model
        self.seed = seed
        self.augment = augment
        self.flip = flip
        self.process_index = process_index
        self.process_count = process_count
        self.drop_last = drop_last
        self.workers = workers
        self.shorten = Shortener(model, long_captions)
        self.data = data
        self.skipped: list[Reject] = []
        self.rows = data.captioned()
        few = len(self.rows) <= CACHED_ROWS
        self.image_features: Tensor | None = None
        self.mirrored_features: Tensor | None = None
        if frozen(model.image_tower) and not augment and few:
            self._encode_images(cache)
        if len(self.rows) < 2:
            raise DataError(
                f"{data.name}: training needs two rows with image and caption; it has"
                f" {len(self.rows)}"
            )
        self.batch_size = min(batch_size, len(self.rows))
        self.bounds = batch_bounds(len(self.rows), self.batch_size, drop_last=drop_last)
        smallest = int((self.bounds[:, 1] - self.bounds[:, 0]).min())
        if smallest < 2 * process_count:
            raise ConfigError(
                f"batch_size: batches of {smallest} pairs are too small for {process_count}"
                f" process{'es' * (process_count > 1)}: each needs two"
            )
        self.text_features: Tensor | None = None
        self.captions: CaptionTable | None = None
        if self.image_features is not None or (frozen(model.text_tower) and few):
            self._encode_captions(cache)

    def _encode_images(self, cache: FeatureCache) -> None:
        """Have the frozen tower encode all images, and leave out those that cannot be read."""
        features, kept = cache.image_tower(self.model, self.data)
        where = {row: at for at, row in enumerate(kept)}
        self.rows = np.array([row for row in self.rows if row in where], dtype=np.int64)
        places = [where[row] for row in self.rows.tolist()]
        self.image_features = features[places]
        self.image_keys = torch.tensor(self.data.image_keys())[torch.from_numpy(self.rows)]
        if self.flip:
            mirrored, _ = cache.image_tower(self.model, self.data, mirrored=True)
            self.mirrored_features = mirrored[places]

    def _encode_captions(self, cache: FeatureCache) -> None:
        """Number the captions, and have a frozen tower encode them."""
        told = [self.data[int(row)].captions for row in self.rows]
        shown = self.shorten([caption for captions in told for caption in captions])
        self.captions = CaptionTable(told, shown)
        if frozen(self.model.text_tower):
            self.text_features = cache.text_tower(self.model, self.captions.texts)

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return len(self.bounds)

    def epoch(self, epoch: int) -> Iterator[PairBatch]:
        """Yield this process's share of the batches of one epoch."""
        if self.image_features is None or self.captions is None:
            yield from self._live(epoch)
            return
        n = len(self.rows)
        order = torch.from_numpy(sample_order(n, seed=self.seed, epoch=epoch))
        mirror = torch.from_numpy(draws(n, stream=FLIP, seed=self.seed, epoch=epoch) < 0.5)
        shown = self.captions.drawn(seed=self.seed, epoch=epoch)
        for start, end in self.bounds:
            rows = order[start + self.process_index : end : self.process_count]
            images = self.image_features[rows]
            if self.mirrored_features is not None:
                images = torch.where(mirror[rows, None], self.mirrored_features[rows], images)
            at = shown[rows]
            yield self._batch(
                images, self._texts(at), self.image_keys[rows], self.captions.keys[at]
            )

    def _live(self, epoch: int) -> Iterator[PairBatch]:
        """Yield batches whose images are decoded now and whose captions are read now."""
        loader = Loader(
            self.data.samples,
            self.model.preprocessing,
            batch_size=self.batch_size,
            seed=self.seed,
            process_index=self.process_index,
            process_count=self.process_count,
            augment=self.augment,
            workers=self.workers,
            drop_last=self.drop_last,
            rows=None if len(self.rows) == len(self.data) else self.rows,
            position=(epoch, 0),
        )
        chance = partial(draws_of, seed=self.seed, epoch=epoch)
        shown = self.captions.drawn(seed=self.seed, epoch=epoch) if self.captions else None
        for batch in loader.epoch():
            images = normalize(batch.pixels.to(self.model.device), self.model.preprocessing)
            if self.flip:
                turned = torch.from_numpy(chance(batch.indices, stream=FLIP) < 0.5)
                turned = turned.to(images.device)[:, None, None, None]
                images = torch.where(turned, images.flip(-1), images)
            image_keys = torch.tensor(batch.keys)
            if shown is not None and self.captions is not None:
                at = shown[batch.indices]
                yield self._batch(images, self._texts(at), image_keys, self.captions.keys[at])
                continue
            told = zip(batch.captions, chance(batch.indices, stream=CAPTION), strict=True)
            parts = self.shorten([captions[int(x * len(captions))] for captions, x in told])
            cut = zip(parts, chance(batch.indices, stream=SENTENCE), strict=True)
            texts = [some[int(x * len(some))] for some, x in cut]
            keys = torch.tensor([text_key(text) for text in texts])
            yield self._batch(images, texts, image_keys, keys)
        known = {reject.id for reject in self.skipped}
        self.skipped += [reject for reject in loader.rejects if reject.id not in known]

    def _texts(self, at: Int[Tensor, " batch"]) -> Tensor | list[str]:
        """Return some of the numbered texts, or their features where those are known."""
        if self.text_features is not None:
            return self.text_features[at]
        return [self.captions.texts[place] for place in at.tolist()] if self.captions else []

    def _batch(
        self, images: Tensor, texts: Tensor | list[str], image_keys: Tensor, text_keys: Tensor
    ) -> PairBatch:
        """Put the two sides of a batch on the device."""
        device = self.model.device
        if isinstance(texts, list):
            tokens = self.model.tokenize(texts)
            moved = {name: value.to(device) for name, value in tokens.items()}
            return PairBatch(images.to(device), moved, image_keys.to(device), text_keys.to(device))
        return PairBatch(
            images.to(device), texts.to(device), image_keys.to(device), text_keys.to(device)
        )
