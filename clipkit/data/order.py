"""Order and chance, as functions of seed and epoch alone: the same for any number of processes.

Nothing here keeps a state, so a run that is resumed at any row, or shared by other processes, sees
what it would have seen.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_ORDER = 0
CAPTION, CROP, FLIP, SENTENCE, VIEW = 1, 2, 3, 4, 5
"""What chance decides for a row: streams of numbers that must not repeat one another."""


def sample_order(n: int, *, seed: int, epoch: int) -> Int[np.ndarray, " rows"]:
    """Return the order of `n` rows in one epoch: a function of its arguments alone."""
    rows = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    order: np.ndarray = np.random.default_rng([seed, epoch, _ORDER]).permutation(rows)
    return order


def draws(n: int, *, stream: int, seed: int, epoch: int) -> Float[np.ndarray, " rows"]:
    """Return a number from 0 up to 1 for each of `n` rows in one epoch."""
    return np.random.default_rng([seed, epoch, stream]).random(n)


def draws_of(
    rows: Sequence[int], *, stream: int, seed: int, epoch: int
) -> Float[np.ndarray, " rows"]:
    """Return what `draws` has for some rows, without making it for all."""
    generator = np.random.default_rng([seed, epoch, stream])
    bits = generator.bit_generator
    if not isinstance(bits, np.random.PCG64):
        raise TypeError(f"numpy's default generator is {type(bits).__name__}, which cannot skip")
    start = bits.state
    found = np.empty(len(rows))
    for at, row in enumerate(rows):
        bits.state = start
        bits.advance(int(row))
        found[at] = generator.random()
    return found


def crop_generator(row: int, *, seed: int, epoch: int) -> np.random.Generator:
    """Return where the randomness of a row's crop comes from in one epoch."""
    return np.random.default_rng([seed, epoch, CROP, row])


def view_generator(row: int, *, view: int, seed: int, epoch: int) -> np.random.Generator:
    """Return where the randomness of a view of a row comes from in one epoch."""
    return np.random.default_rng([seed, epoch, VIEW, row, view])


def batch_bounds(n: int, batch_size: int, *, drop_last: bool) -> Int[np.ndarray, "batches 2"]:
    """Return where each batch of `n` rows in order begins and ends.

    Args:
        n: rows of an epoch.
        batch_size: rows a batch, at most.
        drop_last: all batches are full and what is left over waits for another epoch; else each
            row is in one batch, and the sizes of the batches differ by one at most.

    >>> batch_bounds(10, 4, drop_last=False).tolist()
    [[0, 3], [3, 6], [6, 10]]
    """
    count = n // batch_size if drop_last else -(-n // batch_size)
    numbers = np.arange(count + 1, dtype=np.int64)
    ends = numbers * batch_size if drop_last else numbers * n // max(count, 1)
    return np.stack([ends[:-1], ends[1:]], axis=1)
