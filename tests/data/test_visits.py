"""Which rows an epoch visits, against what weights ask for."""

from collections import Counter

import numpy as np
import pytest

from clipkit.data.order import sample_order
from clipkit.data.visits import Visits


def test_rows_that_weigh_the_same_are_each_visited_once() -> None:
    visits = Visits([np.ones(50)], seed=3)
    assert (len(visits), visits.rows, visits.most) == (50, 50, 1)
    np.testing.assert_array_equal(visits(2), sample_order(50, seed=3, epoch=2))


def test_a_given_order_is_taken() -> None:
    visits = Visits([np.ones(4)], seed=3, order=lambda epoch: np.array([3, 2, 1, 0]))
    assert visits(7).tolist() == [3, 2, 1, 0]


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    weights = [np.ones(40), np.full(60, 0.5)]
    one, same, other = Visits(weights, seed=1), Visits(weights, seed=1), Visits(weights, seed=2)
    np.testing.assert_array_equal(one(5), same(5))
    assert (one(5) != one(6)).any()
    assert (one(5) != other(5)).any()


@pytest.mark.parametrize("weights", [[0.1, 0.35, 0.6, 1.0], [0.5, 2.0, 3.25], [0.0, 0.7, 0.3]])
def test_rows_are_visited_by_their_weights_in_the_mean(weights: list[float]) -> None:
    rows = np.array(weights * 20)
    visits = Visits([rows], seed=0)
    epochs = 400
    counted: Counter[int] = Counter()
    for epoch in range(epochs):
        found = visits(epoch)
        assert len(found) == len(visits) == int(rows.sum() + 1e-9)
        assert len(set(found.tolist())) == len(found)
        once = Counter((found % len(rows)).tolist())
        for row, times in once.items():
            assert times <= np.ceil(rows[row]) <= visits.most
        counted += once
    mean = np.array([counted[row] / epochs for row in range(len(rows))])
    expected = rows * len(visits) / rows.sum()
    assert np.abs(mean - expected).max() < 0.12
    assert np.abs(mean - expected).mean() < 0.03


def test_whole_weights_are_kept_to_in_each_epoch() -> None:
    visits = Visits([np.full(7, 3.0), np.ones(9)], seed=0)
    times = Counter((visits(4) % visits.rows).tolist())
    assert [times[row] for row in range(16)] == [3] * 7 + [1] * 9


def test_a_second_visit_has_a_number_of_its_own() -> None:
    visits = Visits([np.array([2.0, 1.0])], seed=0)
    assert sorted(visits(0).tolist()) == [0, 1, 2]  # row 0 again is 0 + 2 rows


def test_every_batch_has_its_share_of_every_source() -> None:
    visits = Visits([np.full(1000, 0.1), np.full(300, 1.0)], seed=0)
    assert len(visits) == 400
    for batch in visits(0).reshape(10, 40):
        small = int((batch % visits.rows >= 1000).sum())
        assert 28 <= small <= 32  # 30 in each, up to what lies on the edges


def test_a_source_of_little_weight_has_one_visit_and_one_of_none_has_none() -> None:
    assert len(Visits([np.full(3, 0.1), np.ones(4)], seed=0)) == 5
    assert len(Visits([np.zeros(3), np.ones(4)], seed=0)) == 4
    assert set(Visits([np.zeros(3), np.ones(4)], seed=0)(0).tolist()) == {3, 4, 5, 6}
