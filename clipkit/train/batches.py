"""What a training step is fed: features of frozen towers from the cache, else from the loader."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import Dataset, label_key
from clipkit.data.loader import Loader
from clipkit.data.order import CAPTION, FLIP, SENTENCE, batch_bounds, draws, draws_of
from clipkit.data.preprocess import normalize
from clipkit.data.sources import Sources
from clipkit.data.visits import Visits
from clipkit.errors import ConfigError, DataError
from clipkit.losses import Duplicates
from clipkit.models.dual_encoder import DualEncoder
from clipkit.sentences import LongCaptions
from clipkit.train.captions import CaptionTable, Shortener
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.neighbours import NeighbourSettings, order_by_neighbours
from clipkit.train.skips import Skips

Belonging = Literal["captions", "labels"]
"""What must be equal for the caption of one row to belong to the picture of another."""

CACHED_ROWS = 400_000
"""Features of frozen towers are held for up to so many rows (2 GB), else computed each epoch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Pairs that pass through the model at once, on the CPU.

    Attributes:
        images: the frozen image tower's features [batch, features], or pixels from 0 to 255
            [batch, height, width, 3].
        texts: the frozen text tower's features [batch, features], or tokens.
    """

    images: Tensor
    texts: Tensor | dict[str, Tensor]

    def on_device(self, model: DualEncoder) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Return both sides as the model takes them, where the model is."""
        device, images, texts = model.device, self.images.to(model.device), self.texts
        if images.dtype == torch.uint8:
            images = normalize(images, model.preprocessing)
        if isinstance(texts, Tensor):
            return images, texts.to(device)
        return images, {name: value.to(device) for name, value in texts.items()}


@dataclass(frozen=True, slots=True)
class PairBatch:
    """This process's share of a batch of pairs, on the CPU.

    Attributes:
        images: the frozen image tower's features [batch, features], or pixels from 0 to 255
            [batch, height, width, 3].
        texts: the frozen text tower's features [batch, features], or texts.
        rows: which rows of the data the pairs are.
        caption_numbers: which text of the caption table each shows; `None` where there is no table.
        image_keys: equal numbers for equal images.
        text_keys: equal numbers for equal captions.
    """

    images: Tensor
    texts: Tensor | list[str]
    rows: Int[Tensor, " batch"]
    caption_numbers: Int[Tensor, " batch"] | None
    image_keys: Int[Tensor, " batch"]
    text_keys: Int[Tensor, " batch"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.image_keys)

    def parts(self, model: DualEncoder, size: int | None) -> list[Part]:
        """Cut the batch into parts of at most `size` pairs, their sizes differing by one at most.

        Args:
            model: tokenises the texts.
            size: pairs a part; all when `None`.
        """
        bounds = batch_bounds(len(self), size or len(self), drop_last=False)
        return [self._part(model, slice(start, end)) for start, end in bounds.tolist()]

    def _part(self, model: DualEncoder, pairs: slice) -> Part:
        texts = self.texts[pairs]
        return Part(
            self.images[pairs], texts if isinstance(texts, Tensor) else model.tokenize(texts)
        )


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What a step is fed.

    Attributes:
        batch_size: pairs a step over all processes; all rows when there are fewer.
        micro_batch_size: pairs that pass through the model at once, of each process; `None` for
            all. It bounds memory and changes no gradient.
        duplicates: what pairs of equal pictures or captions are to one another: "positive", "mask"
            (left out) or "ignore" (negatives like others).
        positives: "captions": pairs are duplicates by their pictures or captions; "labels": by
            their pictures or labels, and by captions where there is no label (UniCL,
            https://arxiv.org/abs/2204.03610).
        augment: random crops; the image tower is then never cached.
        flip: mirror half of the images; wrong where captions say left or right.
        drop_last: leave out the pairs that do not fill a last batch; else each pair is seen once an
            epoch, in batches whose sizes differ by one at most.
        workers: threads that decode where nothing is cached, see `Loader`.
        long_captions: what stands for a caption that is longer than the model reads; for "pieces"
            the model's own `long_texts` says so too.
    """

    batch_size: int = 256
    micro_batch_size: int | None = None
    duplicates: Duplicates = "positive"
    positives: Belonging = "captions"
    augment: bool = False
    flip: bool = False
    drop_last: bool = False
    workers: int | None = None
    long_captions: LongCaptions = "head"


class PairBatches:
    """Batches in an order that is a function of seed and epoch alone.

    Args:
        model: says which towers are frozen, and how images and texts are prepared.
        data: a data set, or several; rows with an image and at least one caption are used.
        cache: encodes frozen towers once.
        settings: what a step is fed.
        seed: of order, choice of caption and augmentation.
        process_index: which part of each batch this process takes.
        process_count: into how many parts a batch is split.
        number_captions: keep all captions in memory, in a table, even where that is not needed.
        neighbours: how neighbours come into one batch; by chance when `None`.

    Attributes:
        shorten: counts the captions that were looked at, and those that the model cuts.
        skips: rows whose images could not be decoded.

    Raises:
        DataError: when fewer than two rows can be used.
    """

    def __init__(
        self,
        model: DualEncoder,
        data: Dataset | Sources,
        cache: FeatureCache,
        settings: BatchSettings,
        *,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        number_captions: bool = False,
        neighbours: NeighbourSettings | None = None,
    ) -> None:
        """Encode what is frozen."""
        self.model = model
        self.settings = settings
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self.shorten = Shortener(model, settings.long_captions)
        sources = data if isinstance(data, Sources) else Sources.of(data)
        self.data = sources.data
        self.skips = Skips()
        self.rows = sources.rows("pairs")
        few = len(self.rows) <= CACHED_ROWS
        self.image_features: Tensor | None = None
        self.mirrored_features: Tensor | None = None
        if frozen(model.image_tower) and not settings.augment and few:
            self._encode_images(cache)
        if len(self.rows) < 2:
            raise DataError(
                f"{self.data.name}: training needs two rows with image and caption; it has"
                f" {len(self.rows)}"
            )
        weights, order = sources.weights(self.rows), None
        if neighbours is not None:
            if len(weights) > 1 or not bool((weights[0] == 1).all()):
                raise ConfigError(
                    "neighbours: needs a single data set whose rows all weigh 1; drop also, weight"
                    " and weight_column, or neighbours"
                )
            order = order_by_neighbours(model, self.data, self.rows, cache, neighbours, seed=seed)
        self.visits = Visits(weights, seed=seed, order=order)
        self.batch_size = min(settings.batch_size, len(self.visits))
        self.bounds = batch_bounds(len(self.visits), self.batch_size, drop_last=settings.drop_last)
        check_shares(self.bounds, process_count)
        self.text_features: Tensor | None = None
        self.captions: CaptionTable | None = None
        cached_texts = frozen(model.text_tower) and few
        if self.image_features is not None or cached_texts or number_captions:
            self._encode_captions(cache)

    def _encode_images(self, cache: FeatureCache) -> None:
        """Have the frozen tower encode all images, and leave out those that cannot be read."""
        features, kept = cache.image_tower(self.model, self.data)
        where = {row: at for at, row in enumerate(kept)}
        self.rows = np.array([row for row in self.rows if row in where], dtype=np.int64)
        places = [where[row] for row in self.rows.tolist()]
        self.image_features = features[places]
        self.image_keys = torch.tensor(self.data.image_keys())[torch.from_numpy(self.rows)]
        if self.settings.flip:
            mirrored, _ = cache.image_tower(self.model, self.data, mirrored=True)
            self.mirrored_features = mirrored[places]

    def _encode_captions(self, cache: FeatureCache) -> None:
        """Number the captions, and have a frozen tower encode them."""
        told = [self.data[int(row)].captions for row in self.rows]
        shown = self.shorten([caption for captions in told for caption in captions])
        self.captions = CaptionTable(told, shown, self.data.caption_key)
        if self.settings.positives == "labels":
            labels = [label_key(self.data[int(row)].label) for row in self.rows]
            self._labels = torch.tensor(labels)
        if frozen(self.model.text_tower):
            self.text_features = cache.text_tower(self.model, self.captions.texts)

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return len(self.bounds)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[PairBatch]:
        """Yield this process's share of the batches of one epoch, from number `done` on."""
        if self.image_features is None or self.captions is None:
            yield from self._live(epoch, done)
            return
        n, most = len(self.rows), self.visits.most
        order = torch.from_numpy(self.visits(epoch))
        mirror = torch.from_numpy(draws(n * most, stream=FLIP, seed=self.seed, epoch=epoch) < 0.5)
        shown = self.captions.drawn(seed=self.seed, epoch=epoch, most=most)
        for start, end in self.bounds[done:]:
            visits = order[start + self.process_index : end : self.process_count]
            places = visits % n
            images = self.image_features[places]
            if self.mirrored_features is not None:
                images = torch.where(mirror[visits, None], self.mirrored_features[places], images)
            yield self._batch(images, places, self.image_keys[places], shown[visits])

    def _live(self, epoch: int, done: int) -> Iterator[PairBatch]:
        """Yield batches whose images are decoded now and whose captions are read now."""
        loader = Loader(
            self.data.samples,
            self.model.preprocessing,
            batch_size=self.batch_size,
            seed=self.seed,
            process_index=self.process_index,
            process_count=self.process_count,
            augment=self.settings.augment,
            workers=self.settings.workers,
            drop_last=self.settings.drop_last,
            rows=None if len(self.rows) == len(self.data) else self.rows,
            visits=self.visits,
            position=(epoch, done),
        )
        self.skips.follow(loader)
        chance = partial(draws_of, seed=self.seed, epoch=epoch)
        most = self.visits.most
        table = self.captions
        shown = None if table is None else table.drawn(seed=self.seed, epoch=epoch, most=most)
        for batch in loader.epoch():
            pixels = batch.pixels
            if self.settings.flip:
                turned = torch.from_numpy(chance(batch.visits, stream=FLIP) < 0.5)
                pixels = torch.where(turned[:, None, None, None], pixels.flip(2), pixels)
            places, image_keys = torch.tensor(batch.indices), torch.tensor(batch.keys)
            labels = torch.tensor([label_key(label) for label in batch.labels])
            if shown is not None:
                yield self._batch(pixels, places, image_keys, shown[batch.visits], labels)
                continue
            told = zip(batch.captions, chance(batch.visits, stream=CAPTION), strict=True)
            parts = self.shorten([captions[int(x * len(captions))] for captions, x in told])
            cut = zip(parts, chance(batch.visits, stream=SENTENCE), strict=True)
            texts = [some[int(x * len(some))] for some, x in cut]
            yield self._batch(pixels, places, image_keys, texts, labels)

    def _batch(
        self,
        images: Tensor,
        places: Int[Tensor, " batch"],
        image_keys: Int[Tensor, " batch"],
        told: Int[Tensor, " batch"] | list[str],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> PairBatch:
        """Join images with texts: with given ones, or with some of the caption table."""
        texts: Tensor | list[str]
        if isinstance(told, list) or self.captions is None:
            texts = [str(text) for text in told]
            numbers, keys = None, torch.tensor([self.data.caption_key(text) for text in texts])
        else:
            numbers, keys = told, self.captions.keys[told]
            texts = (
                [self.captions.texts[at] for at in told.tolist()]
                if self.text_features is None
                else self.text_features[told]
            )
        if self.settings.positives == "labels":
            labels = self._labels[places] if labels is None else labels
            keys = torch.where(labels < 0, keys, labels)
        rows = torch.from_numpy(self.rows)[places.long()]
        return PairBatch(images, texts, rows, numbers, image_keys, keys)


def check_shares(bounds: Int[np.ndarray, "batches 2"], process_count: int) -> None:
    """Raise ConfigError where a process would get fewer than two rows of a batch."""
    smallest = int((bounds[:, 1] - bounds[:, 0]).min())
    if smallest < 2 * process_count:
        raise ConfigError(
            f"batch_size: batches of {smallest} are too small for {process_count}"
            f" process{'es' * (process_count > 1)}: each needs two rows"
        )
