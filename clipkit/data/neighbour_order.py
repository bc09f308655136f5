"""An order of the rows in which neighbours stand together, so that batches have hard negatives.

Grouped batches: GRIT-VLP, Byun et al. 2022, https://arxiv.org/abs/2208.04060. Batches chosen by a
permutation of all rows: Sachidananda et al. 2022, https://arxiv.org/abs/2210.12874.
"""

import numpy as np
from jaxtyping import Int

from clipkit.data.order import sample_order
from clipkit.errors import ConfigError

_GROUPS = 7  # a stream of numbers beside those of `data.order` and `data.visits`


def neighbour_order(
    neighbours: Int[np.ndarray, "rows k"], *, group: int, seed: int, epoch: int
) -> Int[np.ndarray, " rows"]:
    """Return the order of the rows in one epoch, each once: a function of its arguments alone.

    Rows taken by chance begin groups, and their nearest neighbours that are in no group yet join
    them, until they are `group` rows. A group that stays smaller than half of that is put beside a
    larger one that has a neighbour of its first row, as long as at most `group` rows come to it so.
    What stands together then has about `group` rows in the mean, and twice as many at most. These
    lots follow one another in random order: in a batch of 128 and groups of 8 there are some 16 of
    them, and two rows of different lots meet by chance alone. Where a batch ends within a lot, the
    rest of it is in the next one.

    The time grows with rows times k: a third of a second for a million rows of 8 neighbours.

    Args:
        neighbours: of each row, the nearest first; -1 where there is none.
        group: rows that are put together; with 1 the order is random.
        seed: of the order.
        epoch: another epoch has other groups.

    Raises:
        ConfigError: `group` is below 1, or a neighbour is no row.

    Example:
        >>> pairs = np.array([[1], [0], [3], [2]])
        >>> {frozenset(two) for two in neighbour_order(pairs, group=2, seed=0, epoch=0)
        ...     .reshape(2, 2).tolist()} == {frozenset({0, 1}), frozenset({2, 3})}
        True
    """
    if group < 1:
        raise ConfigError(f"group must be at least 1, not {group}")
    n = len(neighbours)
    for worst in (neighbours.min(initial=-1), neighbours.max(initial=-1)):
        if not -1 <= worst < n:
            raise ConfigError(f"neighbours must be rows from 0 to {n - 1}, or -1, not {worst}")
    if not neighbours.size:
        return sample_order(n, seed=seed, epoch=epoch)
    rows, groups = _group(neighbours, group, sample_order(n, seed=seed, epoch=epoch))
    host = _hosts(neighbours, group, rows, groups)
    place = np.random.default_rng([seed, epoch, _GROUPS]).permutation(len(host))
    return rows[np.argsort(place[host][groups], kind="stable")]


def _group(
    neighbours: Int[np.ndarray, "rows k"], group: int, left: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Put the rows into groups; return them group by group, and the number of the group of each.

    Each round begins so many groups at once that few want the same rows; of those that do, the
    first gets them. Arrays take the place of a loop over rows.

    Args:
        neighbours: of each row.
        group: rows that a group has at most.
        left: the rows in random order: those in front begin the next groups.
    """
    free = np.ones(len(left), bool)
    claim = np.empty(len(left), np.int64)  # of each row, which of the wishes of a round gets it
    found, numbers, count = [left[:0]], [np.zeros(0, np.int64)], 0
    while len(left):
        firsts = left[: -(-len(left) // (2 * group))]
        wanted = np.concatenate([firsts[:, None], neighbours[firsts]], axis=1)
        open_ = (wanted >= 0) & free[wanted]
        open_ &= np.cumsum(open_, axis=1) <= group
        rows, of = wanted[open_], open_.nonzero()[0]
        wish = np.arange(len(rows))
        claim[rows[::-1]] = wish[::-1]  # of equal rows the last write stays: the first wish
        got = claim[rows] == wish
        begun = got[_starts(of)]  # where the first row of a group went to another one
        got &= begun[of]
        found.append(rows[got])
        numbers.append(count + (np.cumsum(begun) - 1)[of[got]])
        count += int(begun.sum())
        free[rows[got]] = False
        left = left[free[left]]
    return np.concatenate(found), np.concatenate(numbers)


def _hosts(
    neighbours: Int[np.ndarray, "rows k"],
    group: int,
    rows: Int[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
) -> Int[np.ndarray, " groups"]:
    """Return beside which group each one is put: itself, or one that a small group belongs to."""
    sizes = np.bincount(groups)
    large = 2 * sizes >= group
    host = np.arange(len(sizes))
    of = np.empty(len(rows), np.int64)
    of[rows] = groups
    small = np.flatnonzero(~large)
    near = neighbours[rows[_starts(groups)][small]]
    good = (near >= 0) & large[of[near]]
    has = good.any(axis=1)
    small, near = small[has], near[has, good[has].argmax(axis=1)]
    by_host = np.argsort(of[near], kind="stable")
    small, wanted = small[by_host], of[near][by_host]
    fits = _sums_within(sizes[small], wanted) <= group
    host[small[fits]] = wanted[fits]
    return host


def _starts(groups: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " groups"]:
    """Return where each run of equal numbers begins."""
    return np.flatnonzero(np.diff(groups, prepend=-1))


def _sums_within(
    sizes: Int[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Return sums of the sizes so far that begin anew with each run of equal numbers."""
    sums = np.cumsum(sizes)
    starts = _starts(groups)
    lengths = np.diff(np.append(starts, len(groups)))
    within: np.ndarray = sums - np.repeat((sums - sizes)[starts], lengths)
    return within
