"""A data set in memory: rows, class names, and what could not be used."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from clipkit.data.ahead import map_ahead
from clipkit.data.columnar import ColumnarSamples, spoken
from clipkit.data.hashing import content_key, digest_key, stored_bytes
from clipkit.packages import default_threads
from clipkit.types import ImageSource, Reject, Sample

READ_WHOLE = 200_000
"""The most rows of a table on disk whose images are read for a fingerprint."""


def caption_key(caption: str) -> str:
    """Return what is equal for captions that say the same, whatever their case and spaces."""
    return " ".join(caption.lower().split())


def text_key(caption: str) -> int:
    """Return a number that is equal for captions that say the same."""
    return content_key(caption_key(caption).encode(errors="surrogatepass"))


def label_key(label: str | None) -> int:
    """Return a number that is equal for equal labels, from 0 on; -1 for none."""
    return -1 if label is None else content_key(b"label " + label.encode(errors="surrogatepass"))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of images, captions and labels, ready to be trained on, classified or embedded.

    Attributes:
        name: what results call it.
        samples: the rows that can be used, as far as is known without decoding.
        class_names: the manifest's, else the labels that occur, sorted; empty if there are none.
        templates: prompts that suit the labels, each with one `{}`; empty if the manifest has none.
        label_templates: what made captions of the labels, where `caption_labels` did.
        rejects: the rows that cannot be used; with `samples` they make up the whole input.
        licence: of the data.
        homepage: of the data.
    """

    name: str
    samples: Sequence[Sample]
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()
    licence: str = ""
    homepage: str = ""
    label_templates: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of usable rows."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return one row."""
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over the rows."""
        return iter(self.samples)

    def fingerprint(self, image_digests: Iterable[str] | None = None) -> str:
        """Return `sha256:...` of the content: ids, captions, labels and the bytes of the images.

        Neither paths nor timestamps count. All images are read once; the object remembers. Of a
        table on disk of more than 200,000 rows, its own bytes stand for all of that.

        Args:
            image_digests: the sha256 in hex of each row's image as it is stored, for whoever has
                read all of them already.
        """
        digest = hashlib.sha256()
        if isinstance(self.samples, ColumnarSamples) and len(self.samples) > READ_WHOLE:
            rows = self.samples.rows_digest()
            return f"sha256:{hashlib.sha256(f'rows {rows} {len(self)}'.encode()).hexdigest()}"
        images = self._image_hashes if image_digests is None else image_digests
        for sample, image in zip(self.samples, images, strict=True):
            row = json.dumps([sample.id, sample.captions, sample.label, image])
            digest.update(row.encode())
        return f"sha256:{digest.hexdigest()}"

    def image_keys(self) -> list[int]:
        """Return a number for each row, equal where the bytes of the images are equal."""
        return [digest_key(image) for image in self._image_hashes]

    def caption_key(self, caption: str) -> int:
        """Return a number that is equal for captions that say the same.

        Those are captions alike but for case and spaces, and those that `caption_labels` made of
        one label.
        """
        key = text_key(caption)
        return self._keys_of_labels.get(key, key)

    def captioned(self) -> Int[np.ndarray, " rows"]:
        """Return the numbers of the rows that have an image and a caption."""
        if isinstance(self.samples, ColumnarSamples):  # which do not hold others
            return np.arange(len(self.samples) if self.samples.captioned else 0, dtype=np.int32)
        good = [row for row, s in enumerate(self.samples) if s.image is not None and s.captions]
        return np.array(good, dtype=np.int64)

    def share(self, share: float) -> "Dataset":
        """Return a share of the rows, chosen by their ids: the same ones each time.

        Args:
            share: of the rows, above 0 and up to 1; a larger one has the rows of a smaller one.
        """
        keys = [content_key(sample.id.encode(errors="surrogatepass")) for sample in self.samples]
        chosen = np.sort(np.argsort(keys, kind="stable")[: max(1, round(share * len(keys)))])
        samples = self.samples
        if isinstance(samples, ColumnarSamples):
            return replace(self, samples=samples.take(chosen))
        return replace(self, samples=[samples[int(row)] for row in chosen])

    def pictured(self) -> Int[np.ndarray, " rows"]:
        """Return the numbers of the rows that have an image."""
        if isinstance(self.samples, ColumnarSamples):  # which do not hold others
            return np.arange(len(self.samples), dtype=np.int32)
        good = [row for row, sample in enumerate(self.samples) if sample.image is not None]
        return np.array(good, dtype=np.int64)

    @cached_property
    def _keys_of_labels(self) -> dict[int, int]:
        """The key of each caption that was made of a label: that of its label's first one."""
        keys: dict[int, int] = {}
        for label in self.class_names if len(self.label_templates) > 1 else ():
            same = [text_key(caption) for caption in spoken(label, self.label_templates)]
            first = keys.get(same[0], same[0])
            keys.update((key, first) for key in same if key not in keys)
        return keys

    @cached_property
    def _image_hashes(self) -> list[str]:
        threads = default_threads()
        hashes = map_ahead(
            lambda sample: _image_hash(sample.image),
            self.samples,
            threads=threads,
            ahead=8 * threads,
            name=lambda sample: sample.id,
        )
        return list(hashes)


def _image_hash(image: ImageSource | None) -> str:
    """Return the sha256 of an image as it is stored, undecoded."""
    try:
        content = b"none" if image is None else stored_bytes(image)
    except OSError:
        content = b"unreadable"  # decoding will reject the row; reading it is not what fails here
    return hashlib.sha256(content).hexdigest()
