"""Several data sets as one, row after row."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Int

from clipkit.data.dataset import Dataset, text_key
from clipkit.types import Sample


@dataclass(frozen=True, eq=False)
class JoinedDataset(Dataset):
    """The rows of several data sets; an id begins with the name of the one it is from.

    Attributes:
        parts: the data sets, by name.
    """

    parts: tuple[tuple[str, Dataset], ...] = ()

    def fingerprint(self, image_digests: Iterable[str] | None = None) -> str:
        """Return `sha256:...` of the parts' names and fingerprints.

        Args:
            image_digests: not needed.
        """
        told = [(name, part.fingerprint()) for name, part in self.parts]
        return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"

    def image_keys(self) -> list[int]:
        """Return a number for each row, equal where the bytes of the images are equal."""
        return [key for _, part in self.parts for key in part.image_keys()]

    def caption_key(self, caption: str) -> int:
        """Return a number that is equal for captions that say the same in any of the parts."""
        key = text_key(caption)
        return next(
            (found for _, part in self.parts if (found := part.caption_key(caption)) != key), key
        )

    def captioned(self) -> Int[np.ndarray, " rows"]:
        """Return the numbers of the rows that have an image and a caption."""
        return self._all([part.captioned() for _, part in self.parts])

    def pictured(self) -> Int[np.ndarray, " rows"]:
        """Return the numbers of the rows that have an image."""
        return self._all([part.pictured() for _, part in self.parts])

    def _all(self, rows: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " rows"]:
        """Number rows of the parts as rows of the whole."""
        firsts = accumulate((len(part) for _, part in self.parts), initial=0)
        return np.concatenate(
            [first + some.astype(np.int64) for first, some in zip(firsts, rows, strict=False)]
        )


def join_data(parts: Sequence[tuple[str, Dataset]]) -> Dataset:
    """Join data sets; a single one stays as it is.

    Args:
        parts: name and data set of each.
    """
    if len(parts) == 1:
        return parts[0][1]
    return JoinedDataset(
        name=" + ".join(part.name for _, part in parts),
        samples=_JoinedSamples([(name, part.samples) for name, part in parts]),
        class_names=tuple(sorted({label for _, part in parts for label in part.class_names})),
        rejects=tuple(
            replace(reject, id=f"{name}/{reject.id}")
            for name, part in parts
            for reject in part.rejects
        ),
        parts=tuple(parts),
    )


class _JoinedSamples(Sequence[Sample]):
    """The samples of several data sets, made when they are asked for."""

    def __init__(self, parts: Sequence[tuple[str, Sequence[Sample]]]) -> None:
        self._parts = list(parts)
        self._firsts = list(accumulate((len(some) for _, some in parts), initial=0))

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._firsts[-1]

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or the list of those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= at < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = bisect_right(self._firsts, at) - 1
        name, samples = self._parts[part]
        return _named(name, samples[at - self._firsts[part]])

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in order."""
        for name, samples in self._parts:
            for sample in samples:
                yield _named(name, sample)


def _named(name: str, sample: Sample) -> Sample:
    return replace(sample, id=f"{name}/{sample.id}")
