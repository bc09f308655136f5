"""Which rows show the same: by images, captions, labels or whatever else their samples have."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

Keyed: TypeAlias = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Samples, and a key of each: equal numbers for equal content. One may have several, or none."""

Pairs: TypeAlias = tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]
"""The left and the right of each pair."""


class Contents:
    """Lists the pairs of rows that have some content in common, block by block.

    What only one sample has is forgotten, so little is held where little is there twice.

    Args:
        keyed: by the name of a kind of content, the samples that have some and its keys; a key
            below 0 is none.
        samples: of each row which sample it is of, as an image and its captions are of one; each
            row is a sample of its own when `None`.

    Example:
        >>> contents = Contents({"label": (np.array([0, 1, 2, 5]), np.array([7, 8, 7, 7]))})
        >>> left, right = contents.equal("label", np.array([0, 1]), np.array([2, 3, 5]))
        >>> left.tolist(), right.tolist()
        ([0, 0], [0, 2])
    """

    def __init__(
        self, keyed: Mapping[str, Keyed], samples: Int[np.ndarray, " rows"] | None = None
    ) -> None:
        """Keep what several samples have."""
        self._keyed = {name: _shared(*entries) for name, entries in keyed.items()}
        self._samples = samples

    @property
    def names(self) -> list[str]:
        """The kinds of content, in the order they were given in."""
        return list(self._keyed)

    def equal(
        self, name: str, rows: Int[np.ndarray, " rows"], others: Int[np.ndarray, " others"]
    ) -> Pairs:
        """Return the pairs of rows whose samples have some content in common, as places in both.

        Args:
            name: the kind of content.
            rows: some rows.
            others: some rows.
        """
        keyed = self._keyed[name]
        return _pairs(_entries(keyed, self._sample(rows)), _entries(keyed, self._sample(others)))

    def one_sample(
        self, rows: Int[np.ndarray, " rows"], others: Int[np.ndarray, " others"]
    ) -> Pairs:
        """Return the pairs of rows that are of one sample, such as a row and itself."""
        return _pairs(
            (np.arange(len(rows)), self._sample(rows)),
            (np.arange(len(others)), self._sample(others)),
        )

    def _sample(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        return rows if self._samples is None else self._samples[rows]


def _pairs(left: Keyed, right: Keyed) -> Pairs:
    """Return the pairs of entries with equal keys."""
    order = np.argsort(right[1], kind="stable")
    others, keys = right[0][order], right[1][order]
    first = np.searchsorted(keys, left[1], side="left")
    counts = np.searchsorted(keys, left[1], side="right") - first
    return np.repeat(left[0], counts), others[_spans(first, counts)]


def _shared(samples: Int[np.ndarray, " entries"], keys: Int[np.ndarray, " entries"]) -> Keyed:
    """Return what several samples have, sample by sample."""
    order = np.lexsort((keys, samples))
    samples, keys = samples[order], keys[order]
    once = np.ones(len(keys), bool)
    once[1:] = (samples[1:] != samples[:-1]) | (keys[1:] != keys[:-1])
    samples, keys = samples[once], keys[once]
    _, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
    good = (keys >= 0) & (counts[number] > 1)
    return samples[good], number[good]


def _entries(keyed: Keyed, samples: Int[np.ndarray, " rows"]) -> Keyed:
    """Return what some samples have, with their places among them in place of themselves."""
    first = np.searchsorted(keyed[0], samples, side="left")
    counts = np.searchsorted(keyed[0], samples, side="right") - first
    return np.repeat(np.arange(len(samples)), counts), keyed[1][_spans(first, counts)]


def _spans(
    first: Int[np.ndarray, " spans"], counts: Int[np.ndarray, " spans"]
) -> Int[np.ndarray, " numbers"]:
    """Return the numbers of spans, one after another, that begin and are as long as told."""
    before = np.cumsum(counts) - counts
    numbers: np.ndarray = np.repeat(first - before, counts) + np.arange(counts.sum())
    return numbers
