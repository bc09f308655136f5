import numpy as np
import pytest

from clipkit.data.neighbour_order import _group, neighbour_order
from clipkit.data.order import batch_bounds, sample_order
from clipkit.errors import ConfigError


def nearest(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Return the k nearest others of points in clusters of some 20."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, rows // 20), 8))
    points = centres[rng.integers(0, len(centres), rows)] + 0.5 * rng.normal(size=(rows, 8))
    distances = ((points[:, None] - points) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    found: np.ndarray = np.argsort(distances, axis=1)[:, :k]
    return found


def with_a_neighbour(order: np.ndarray, neighbours: np.ndarray, batch_size: int) -> list[float]:
    """Return the share of the rows of each batch that have a neighbour in it."""
    shares = []
    for start, end in batch_bounds(len(order), batch_size, drop_last=False):
        batch = set(order[start:end].tolist())
        shares.append(np.mean([bool(batch & set(neighbours[row].tolist())) for row in batch]))
    return [float(share) for share in shares]


@pytest.mark.parametrize("group", [1, 2, 5, 8, 1_000])
@pytest.mark.parametrize("rows", [1, 2, 97, 600])
def test_each_row_is_there_once(rows: int, group: int) -> None:
    neighbours = nearest(rows, 6)
    neighbours[np.random.default_rng(1).random(neighbours.shape) < 0.3] = -1
    order = neighbour_order(neighbours, group=group, seed=3, epoch=2)
    assert sorted(order.tolist()) == list(range(rows))


def test_awkward_neighbours() -> None:
    for neighbours in (
        np.zeros((50, 4), np.int64),  # all have the same, itself among them
        np.full((50, 4), -1),
        np.repeat(np.arange(50)[:, None], 4, axis=1),
        np.zeros((50, 0), np.int64),
        np.zeros((0, 4), np.int64),
    ):
        order = neighbour_order(neighbours, group=3, seed=0, epoch=0)
        assert sorted(order.tolist()) == list(range(len(neighbours)))


def test_a_function_of_its_arguments_whatever_chance_did_before() -> None:
    neighbours = nearest(300, 5)
    kept = neighbours.copy()
    first = neighbour_order(neighbours, group=4, seed=1, epoch=2)
    np.random.default_rng().random(7)
    np.testing.assert_array_equal(neighbour_order(neighbours, group=4, seed=1, epoch=2), first)
    np.testing.assert_array_equal(neighbours, kept)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        other = neighbour_order(neighbours, group=4, seed=seed, epoch=epoch)
        assert (other == first).mean() < 0.05


def test_batches_have_neighbours_far_more_often_than_by_chance() -> None:
    neighbours = nearest(1_500, 6)
    chance = with_a_neighbour(sample_order(1_500, seed=0, epoch=0), neighbours, 30)
    assert np.mean(chance) < 0.2
    for group in (2, 4, 8):
        order = neighbour_order(neighbours, group=group, seed=0, epoch=0)
        shares = with_a_neighbour(order, neighbours, 30)
        assert np.mean(shares) > 0.7
        assert abs(np.mean(shares[:25]) - np.mean(shares[25:])) < 0.05  # early and late alike
    alone = neighbour_order(neighbours, group=1, seed=0, epoch=0)
    assert np.mean(with_a_neighbour(alone, neighbours, 30)) < 0.2


@pytest.mark.parametrize("group", [2, 5, 9])
def test_a_group_is_a_row_and_some_of_its_neighbours(group: int) -> None:
    neighbours = nearest(800, 6)
    rows, groups = _group(neighbours, group, sample_order(800, seed=0, epoch=0))
    assert sorted(rows.tolist()) == list(range(800))
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    for number in range(groups.max() + 1):
        first, *others = rows[groups == number].tolist()
        assert len(others) < group
        assert set(others) <= set(neighbours[first].tolist())
    assert np.mean(np.bincount(groups) > 1) > 0.5


def test_cliques_stay_whole_and_in_random_order() -> None:
    cliques = np.arange(240).reshape(60, 4)
    neighbours = np.array([[x for x in clique if x != row] for clique in cliques for row in clique])
    order = neighbour_order(neighbours, group=4, seed=0, epoch=0)
    clique = (order // 4).reshape(60, 4)
    assert (clique == clique[:, :1]).all()
    assert (np.diff(clique[:, 0]) > 0).mean() < 0.7


def test_what_all_rows_want_leaves_the_others_by_chance() -> None:
    neighbours = np.zeros((1_000, 1), np.int64)
    neighbours[0] = 1
    order = neighbour_order(neighbours, group=10, seed=0, epoch=0)
    assert abs(np.corrcoef(np.arange(1_000), order)[0, 1]) < 0.1


def test_small_groups_come_beside_their_neighbours_up_to_a_bound() -> None:
    """Row 0, of a clique of 6, is the neighbour of 30 rows that are nobody's."""
    clique = [[x for x in range(6) if x != row] for row in range(6)]
    neighbours = np.array([*clique, *[[0, -1, -1, -1, -1]] * 30, *[[-1] * 5] * 3_000])
    beside = []
    for epoch in range(30):
        order = neighbour_order(neighbours, group=6, seed=0, epoch=epoch)
        place = int(np.flatnonzero(order == 0)[0])
        near = order[max(0, place - 40) : place + 40]
        beside.append(int(((near >= 6) & (near < 36)).sum()))
    assert 6 <= max(beside) <= 10  # some more by chance
    assert min(beside) >= 1  # one of the 30 was faster than the clique


def test_what_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="group must be at least 1, not 0"):
        neighbour_order(np.zeros((3, 1), np.int64), group=0, seed=0, epoch=0)
    for worst in (3, -2):
        with pytest.raises(ConfigError, match=f"0 to 2, or -1, not {worst}"):
            neighbour_order(np.array([[0], [worst], [1]]), group=2, seed=0, epoch=0)
