"""One pass over all rows: each image is read, hashed and decoded once, and a few numbers stay."""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from clipkit.data.ahead import map_ahead
from clipkit.data.dataset import Dataset, text_key
from clipkit.data.decode import NO_IMAGE, ImageFacts, inspect_image
from clipkit.data.hashing import stored_bytes
from clipkit.errors import ImageError
from clipkit.packages import default_threads
from clipkit.sentences import CountTokens
from clipkit.types import FileSlice, ImageSource, Progress, Reject, Sample

IMAGE = np.dtype([("row", "<u4"), ("width", "<u4"), ("height", "<u4"), ("label", "<i4")])
"""What is kept of a usable image: its row, its size in pixels, and its label's number or -1."""
CAPTION = np.dtype([("row", "<u4"), ("key", "<i8"), ("words", "<u4"), ("characters", "<u4")])
"""What is kept of a caption: its row, a number that equal captions share, and its length."""

_pack_image = struct.Struct("<IIIi").pack
_pack_caption = struct.Struct("<IqII").pack
_AHEAD = 16  # images that are read ahead, for each thread
_CAPTIONS_AT_ONCE = 1024
_DIGEST = 32  # bytes of a sha256

Seen = tuple[bytes, ImageFacts | str]


@dataclass(eq=False)
class Survey:
    """What is remembered of the rows: some 50 bytes of each, and 24 more of each caption.

    Attributes:
        data: the rows.
        rejects: the rows of `data` whose images cannot be used.
        kinds: how the usable images are stored, such as "JPEG RGB", and how many are.
        traits: how many of them are "rotated", "transparent", or have several "frames".
        labels: the labels of usable rows, and their numbers.
    """

    data: Dataset
    rejects: list[Reject] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)
    labels: dict[str, int] = field(default_factory=dict)
    _digests: bytearray = field(default_factory=bytearray)
    _images: bytearray = field(default_factory=bytearray)
    _captions: bytearray = field(default_factory=bytearray)
    _tokens: list[np.ndarray] = field(default_factory=list)

    @property
    def images(self) -> np.ndarray:
        """What is kept of each usable image, in the order of the rows: see `IMAGE`."""
        return np.frombuffer(bytes(self._images), dtype=IMAGE)

    @property
    def captions(self) -> np.ndarray:
        """What is kept of each caption of a usable row, in their order: see `CAPTION`."""
        return np.frombuffer(bytes(self._captions), dtype=CAPTION)

    @property
    def tokens(self) -> Int[np.ndarray, " captions"]:
        """The number of tokens of each caption of `captions`; none if they were not counted."""
        return np.concatenate([*self._tokens, np.zeros(0, dtype=np.int64)])

    def image_keys(self) -> Int[np.ndarray, " rows"]:
        """Return 63 bits for the image of each row, equal where the stored bytes are equal."""
        words = np.frombuffer(bytes(self._digests), dtype=">u8").reshape(-1, _DIGEST // 8)
        return (words[:, 0] >> np.uint64(1)).astype(np.int64)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; the images are not read once more."""
        starts = range(0, len(self._digests), _DIGEST)
        return self.data.fingerprint(self._digests[at : at + _DIGEST].hex() for at in starts)

    def add(self, sample: Sample, seen: Seen) -> None:
        """Remember the next row."""
        digest, facts = seen
        row = len(self._digests) // _DIGEST
        self._digests += digest
        if isinstance(facts, str):
            self.rejects.append(Reject(sample.id, facts, _place(sample.image)))
            return
        label = -1
        if sample.label is not None:
            label = self.labels.setdefault(sample.label, len(self.labels))
        self._images += _pack_image(row, facts.width, facts.height, label)
        self.kinds[f"{facts.format or 'in memory'} {facts.mode}"] += 1
        self.traits["rotated"] += facts.orientation > 1
        self.traits["transparent"] += facts.transparent
        self.traits["frames"] += facts.frames
        for caption in sample.captions:
            words, characters = len(caption.split()), len(caption)
            self._captions += _pack_caption(row, text_key(caption), words, characters)

    def add_tokens(self, counts: Sequence[int]) -> None:
        """Remember how many tokens the next captions have."""
        self._tokens.append(np.array(counts, dtype=np.int64))


def take_survey(
    data: Dataset,
    *,
    count_tokens: CountTokens | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Look at all rows, while threads read and decode the images of the next ones.

    Args:
        data: the rows.
        count_tokens: counts the tokens of the captions of usable rows.
        progress: told how many rows are done.
    """
    found = Survey(data)
    waiting: list[str] = []
    for done, (sample, seen) in enumerate(_in_threads(data), 1):
        found.add(sample, seen)
        if count_tokens is not None and not isinstance(seen[1], str):
            waiting += sample.captions
            if len(waiting) >= _CAPTIONS_AT_ONCE:
                found.add_tokens(count_tokens(waiting))
                waiting = []
        if progress is not None and (done % 16 == 0 or done == len(data)):
            progress(done, len(data))
    if count_tokens is not None and waiting:
        found.add_tokens(count_tokens(waiting))
    return found


def _in_threads(data: Dataset) -> Iterator[tuple[Sample, Seen]]:
    """Yield each row and what threads saw of its image, in order; few rows are held at a time."""
    threads = default_threads()
    return map_ahead(
        lambda sample: (sample, _look(sample.image)),
        data,
        threads=threads,
        ahead=_AHEAD * threads,
        name=lambda sample: sample.id,
    )


def _look(image: ImageSource | None) -> Seen:
    """Return an image's digest, and what is known of it or why it cannot be used."""
    if image is None:
        return hashlib.sha256(b"none").digest(), NO_IMAGE
    content: ImageSource = image
    try:
        stored = stored_bytes(image)
        if isinstance(image, Path | FileSlice):
            content = stored
    except OSError:
        stored = b"unreadable"  # inspect_image, which meets the same error, words it
    digest = hashlib.sha256(stored).digest()
    try:
        return digest, inspect_image(content)
    except ImageError as error:
        return digest, str(error)


def _place(image: ImageSource | None) -> str:
    """Return the file that holds an image, as far as there is one."""
    if isinstance(image, FileSlice):
        return str(image.path)
    return str(image) if isinstance(image, Path) else ""
