"""Samples in, rows with embeddings out: read ahead in threads, encoded in batches.

What shares a batch depends on the samples alone, never on when a run was stopped: the work is cut
into units of a fixed number of samples, and within a unit a run can be taken up again only where
nothing waits for its batch to fill. So a store that was made in pieces has the same bytes.
"""

import hashlib
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from clipkit.data.ahead import map_ahead
from clipkit.data.decode import NO_IMAGE, file_problem, os_reason
from clipkit.data.hashing import stored_bytes
from clipkit.data.preprocess import load_pixels
from clipkit.embed.listing import entry, image_state
from clipkit.embed.reuse import Reuse
from clipkit.embed.rows import Row, path_of
from clipkit.encode import (
    EncodeImages,
    EncodeTexts,
    Pixels,
    encode_pixels,
    encode_texts,
    images_a_batch,
)
from clipkit.errors import ImageError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.packages import default_threads
from clipkit.types import ImageSource, Sample

TEXTS = 512
"""Captions that are encoded together, those of like length first."""

_NONE, _UNREADABLE = (hashlib.sha256(told).hexdigest() for told in (b"none", b"unreadable"))
# what Dataset.fingerprint counts of an image that is not there


@dataclass(frozen=True, slots=True)
class Encoder:
    """How rows are encoded.

    Attributes:
        model: gives preprocessing, tokenizer and device.
        batch_size: images a forward pass; what suits the device when `None`.
        images: what to run in place of `model.encode_image`.
        texts: what to run in place of `model.encode_text`.
    """

    model: DualEncoder
    batch_size: int | None = None
    images: EncodeImages | None = None
    texts: EncodeTexts | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A sample whose image cannot be used.

    Attributes:
        place: its number in the data.
        id: of the sample.
        reason: why.
        where: its file, if it is one.
        sha256: of the image as it is stored, or what stands for it in the data's fingerprint.
        retry: the system failed, not the image: it may be there the next time.
    """

    place: int
    id: str
    reason: str
    where: str
    sha256: str
    retry: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A sample to be encoded: its number in the data, and whether a unit of work ends with it."""

    place: int
    sample: Sample
    last: bool


@dataclass(slots=True)
class Chunk:
    """What some consecutive samples of one unit gave.

    Attributes:
        start: number of the first sample.
        stop: number behind the last one.
        rows: in order.
        embeddings: one for each row.
        bad: the samples whose image is in no row.
        entries: 16 bytes for each sample, see `listing`.
        asked: how many rows the samples should give.
        encoded: how many of the rows a model computed.
        skipped: samples that have nothing of what was asked for.
    """

    start: int
    stop: int
    rows: list[Row] = field(default_factory=list)
    embeddings: Float[np.ndarray, "rows dim"] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )
    bad: list[Bad] = field(default_factory=list)
    entries: bytes = b""
    asked: int = 0
    encoded: int = 0
    skipped: int = 0


@dataclass(slots=True)
class _Seen:
    """A sample that was read: pixels where its image is to be encoded, or what is wrong."""

    item: Item
    entry: bytes
    sha256: str = ""
    pixels: Pixels | None = None
    bad: Bad | None = None


def encode_stream(
    encoder: Encoder,
    items: Iterable[Item],
    what: str,
    *,
    dim: int,
    reuse: Reuse | None = None,
) -> Generator[Chunk, None, None]:
    """Encode samples in order, and yield them wherever nothing waits for its batch to fill.

    Args:
        encoder: how.
        items: the samples of one unit after another; those of the next ones are read ahead.
        what: "images", "captions" or "both".
        dim: width of an embedding.
        reuse: what is in there is not encoded.

    Raises:
        DataError: reading a sample failed in a way that it does not answer for itself.
    """
    known = reuse or Reuse()
    size = encoder.batch_size or images_a_batch(encoder.model)
    reading = map_ahead(
        lambda item: _read(item, encoder, what, known),
        items,
        threads=0 if what == "captions" else default_threads(),
        ahead=2 * size,
        name=lambda item: item.sample.id,
    )
    pending = _Pending(encoder, what, dim, known, size)
    with closing(reading):
        for seen in reading:
            pending.add(seen)
            if pending.settle(force=seen.item.last):
                yield pending.take()


def _read(item: Item, encoder: Encoder, what: str, reuse: Reuse) -> _Seen:
    """Read, hash and decode a sample's image; its state is noted before, not after."""
    sample = item.sample
    if what == "captions":
        return _Seen(item, entry(sample, ""))
    seen = _Seen(item, entry(sample, image_state(sample.image)))

    def bad(reason: str, *, retry: bool) -> _Seen:
        where = path_of(sample) or ""
        seen.bad = Bad(item.place, sample.id, reason, where, seen.sha256, retry)
        return seen

    if sample.image is None:
        seen.sha256 = _NONE
        return bad(NO_IMAGE, retry=False)
    problem, content = _content(sample.image)
    if problem is not None:
        seen.sha256 = _UNREADABLE
        return bad(problem, retry=True)
    seen.sha256 = hashlib.sha256(content).hexdigest()
    if reuse.has("image", seen.sha256):
        return seen
    image = sample.image if isinstance(sample.image, Image) else content
    try:
        seen.pixels = load_pixels(image, encoder.model.preprocessing)
    except ImageError as error:
        return bad(str(error), retry=isinstance(error.__cause__, MemoryError))
    return seen


def _content(image: ImageSource) -> tuple[str | None, bytes]:
    """Return why an image cannot be read, or its bytes."""
    if isinstance(image, Path) and (problem := file_problem(image)):
        return problem, b""
    try:
        return None, stored_bytes(image)
    except OSError as error:
        return os_reason(error) if error.errno else "the file around it ends within it", b""


class _Pending:
    """Samples whose rows are not all encoded yet."""

    def __init__(self, encoder: Encoder, what: str, dim: int, reuse: Reuse, size: int) -> None:
        self._encoder, self._what, self._dim, self._reuse = encoder, what, dim, reuse
        self._size = size
        self._images: list[tuple[int, Pixels]] = []
        self._texts: list[tuple[int, str]] = []
        self._vectors: list[Float[np.ndarray, " dim"] | None] = []
        self._entries: list[bytes] = []
        self._chunk: Chunk | None = None

    def add(self, seen: _Seen) -> None:
        """Take one more sample; its rows wait for a batch, or are known already."""
        item, sample = seen.item, seen.item.sample
        if self._chunk is None:
            self._chunk = Chunk(item.place, item.place)
        self._chunk.stop = item.place + 1
        self._entries.append(seen.entry)
        images, texts = self._what != "captions", self._what != "images"
        self._chunk.asked += images + len(sample.captions) * texts
        if images:
            self._add_image(seen)
        if texts:
            for text in sample.captions:
                digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
                vector = self._reuse.get("text", digest)
                if vector is None:
                    self._texts.append((len(self._vectors), text))
                self._vectors.append(vector)
                self._chunk.rows.append(Row(sample, "text", text, digest))
        if self._what == "captions" and not sample.captions:
            self._chunk.skipped += 1
        if len(self._images) >= self._size:
            self._encode_images()

    def settle(self, *, force: bool) -> bool:
        """Say whether nothing waits any more; encode what waits if need be.

        Args:
            force: as when a unit ends.
        """
        if self._images and not force:
            return False
        if self._texts and not force and len(self._texts) < TEXTS:
            return False
        self._encode_images()
        self._encode_texts()
        return True

    def take(self) -> Chunk:
        """Return what is encoded, and begin anew."""
        chunk = self._chunk
        if chunk is None:
            raise RuntimeError("nothing was added")
        vectors = [vector for vector in self._vectors if vector is not None]
        chunk.embeddings = np.stack(vectors) if vectors else np.zeros((0, self._dim), np.float32)
        chunk.entries = b"".join(self._entries)
        self._vectors, self._entries, self._chunk = [], [], None
        return chunk

    def _add_image(self, seen: _Seen) -> None:
        chunk = self._chunk
        if chunk is None or seen.bad is not None:
            if chunk is not None and seen.bad is not None:
                chunk.bad.append(seen.bad)
            return
        sample = seen.item.sample
        if seen.pixels is not None:
            self._images.append((len(self._vectors), seen.pixels))
            self._vectors.append(None)
        else:
            self._vectors.append(self._reuse.get("image", seen.sha256))
        text = sample.captions[0] if sample.captions else None
        chunk.rows.append(Row(sample, "image", text, seen.sha256))

    def _encode_images(self) -> None:
        if not self._images:
            return
        model = self._encoder.model
        encode = self._encoder.images or model.encode_image
        pixels = [pixels for _, pixels in self._images]
        self._put([at for at, _ in self._images], encode_pixels(model, pixels, encode).numpy())
        self._images = []

    def _encode_texts(self) -> None:
        if not self._texts:
            return
        texts = [text for _, text in self._texts]
        features = encode_texts(self._encoder.model, texts, encode=self._encoder.texts)
        self._put([at for at, _ in self._texts], features.numpy())
        self._texts = []

    def _put(self, places: list[int], features: Float[np.ndarray, "rows dim"]) -> None:
        for at, vector in zip(places, features, strict=True):
            self._vectors[at] = vector
        if self._chunk is not None:
            self._chunk.encoded += len(places)
