"""Which rows an epoch visits and in which order, where some count for more than others."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from clipkit.data.order import sample_order

_VISITS = 6

Order = Callable[[int], Int[np.ndarray, " visits"]]
"""Returns the visits of an epoch, by its number."""


class Visits:
    """The visits of an epoch: a function of seed and epoch alone.

    A row of weight w is visited w times an epoch in the mean over epochs: one of weight 0.25 in a
    quarter of them, one of 3 three times in each. Each source's visits are spread evenly, so that
    every batch has its share of every source. A visit is a number: the row's, plus `rows` for each
    visit before it in the epoch; so what chance decides by that number differs between them.

    Args:
        weights: of the rows of each source, from 0 on.
        seed: of the order.
        order: where given, the order of the rows of the only source, each visited once.

    Attributes:
        rows: how many rows there are.
        most: how often a row is visited in an epoch at most.

    Example:
        >>> visits = Visits([np.ones(3), np.array([0.5, 2.5])], seed=0)
        >>> len(visits), visits.rows, visits.most
        (6, 5, 3)
    """

    def __init__(
        self,
        weights: Sequence[Float[np.ndarray, " _"]],
        *,
        seed: int,
        order: Order | None = None,
    ) -> None:
        """Keep the weights."""
        self.seed = seed
        self.rows = sum(len(some) for some in weights)
        self._order = order
        even = len(weights) == 1 and bool((weights[0] == 1).all())
        self._weights = None if even else [np.asarray(some, dtype=np.float64) for some in weights]
        self._counts = [self.rows]
        self.most = 1
        if self._weights is not None:
            self._counts = [_visits(some) for some in self._weights]
            self.most = max(1, *(math.ceil(some.max(initial=0)) for some in self._weights))

    def __len__(self) -> int:
        """Return the visits of an epoch."""
        return sum(self._counts)

    def __call__(self, epoch: int) -> Int[np.ndarray, " visits"]:
        """Return the visits of an epoch in their order."""
        if self._order is not None:
            return self._order(epoch)
        if self._weights is None:
            return sample_order(self.rows, seed=self.seed, epoch=epoch)
        found, places, first = [], [], 0
        for number, (weights, count) in enumerate(zip(self._weights, self._counts, strict=True)):
            rng = np.random.default_rng([self.seed, epoch, _VISITS, number])
            row, before = _drawn(weights, count, rng)
            mixed = rng.permutation(count)
            found.append((first + row + self.rows * before)[mixed])
            places.append((np.arange(count) + rng.random(count)) / max(count, 1))
            first += len(weights)
        return np.concatenate(found)[np.argsort(np.concatenate(places), kind="stable")]


def _visits(weights: Float[np.ndarray, " rows"]) -> int:
    """Return how many visits a source has: the sum of its weights, and one where that is less."""
    total = float(weights.sum())
    return max(1, math.floor(total + 1e-9)) if total > 0 else 0


def _drawn(
    weights: Float[np.ndarray, " rows"], count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " visits"], Int[np.ndarray, " visits"]]:
    """Draw rows by their weights, each as often as its weight or its weight rounded up or down.

    Systematic sampling: the weights of the rows in random order are laid along a line, which is
    marked once a unit from a random point on.

    Returns:
        The row of each visit, and how many visits of it there are before.
    """
    rows = rng.permutation(len(weights))
    ends = np.cumsum(weights[rows])
    if count:
        ends *= count / ends[-1]
        ends[weights[rows].nonzero()[0][-1] :] = count  # whatever rounding made of the last ones
    marks = np.floor(ends + rng.random()).astype(np.int64)
    times = np.diff(marks, prepend=0)
    before = np.arange(count) - np.repeat(np.cumsum(times) - times, times)
    return np.repeat(rows, times), before
