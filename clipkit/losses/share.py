"""The part of a loss's work that one of several processes does."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a loss that all processes compute together.

    Every process calls the loss with the same features, those of the whole batch. Each works out
    only its own rows against all columns, and the sums go through `total`; the loss and all its
    gradients then come out whole, and equal on every process.

    Attributes:
        rank: which part, from 0.
        count: how many parts there are.
        total: returns the sum of a tensor over all processes, which it may change in place; called
            equally often, with equal shapes, by each of them.

    Example:
        >>> Share(rank=1, count=2, total=lambda tensor: tensor).rows(batch=5)
        range(2, 5)
    """

    rank: int
    count: int
    total: Callable[[Tensor], Tensor]

    def rows(self, batch: int) -> range:
        """Return the rows that are this part's."""
        return range(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)


def _unchanged(tensor: Tensor) -> Tensor:
    """Sum over one process."""
    return tensor


WHOLE = Share(rank=0, count=1, total=_unchanged)
"""What a process does that is alone."""
