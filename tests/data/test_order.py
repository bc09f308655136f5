import numpy as np
import pytest

from clipkit.data.order import (
    CAPTION,
    FLIP,
    SENTENCE,
    batch_bounds,
    crop_generator,
    draws,
    draws_of,
    sample_order,
)


def test_order_is_a_pure_permutation() -> None:
    first = sample_order(100, seed=3, epoch=5)
    np.testing.assert_array_equal(first, sample_order(100, seed=3, epoch=5))
    assert sorted(first.tolist()) == list(range(100))
    assert (first != sample_order(100, seed=3, epoch=6)).any()
    assert (first != sample_order(100, seed=4, epoch=5)).any()


def test_each_caption_gets_its_turn() -> None:
    counts = np.array([1, 2, 5])
    chosen = np.stack(
        [
            (draws(len(counts), stream=CAPTION, seed=0, epoch=epoch) * counts).astype(int)
            for epoch in range(300)
        ]
    )
    assert [sorted(set(chosen[:, row].tolist())) for row in range(3)] == [[0], [0, 1], [*range(5)]]
    assert 60 <= (draws(140, stream=FLIP, seed=0, epoch=0) < 0.5).sum() <= 80


@pytest.mark.parametrize(("n", "size"), [(18, 4), (18, 18), (18, 40), (7, 2), (1, 1), (1000, 33)])
def test_batches_are_of_nearly_one_size(n: int, size: int) -> None:
    bounds = batch_bounds(n, size, drop_last=False)
    sizes = [end - start for start, end in bounds]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert sum(sizes) == n
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    full = batch_bounds(n, size, drop_last=True)
    assert [end - start for start, end in full] == [size] * (n // size)


@pytest.mark.parametrize("stream", [CAPTION, FLIP, SENTENCE])
def test_some_draws_are_those_of_all(stream: int) -> None:
    whole = draws(1000, stream=stream, seed=7, epoch=2)
    rows = [999, 0, 3, 3, 512]
    some = draws_of(rows, stream=stream, seed=7, epoch=2)
    np.testing.assert_array_equal(some, whole[rows])


def test_streams_rows_and_epochs_differ() -> None:
    streams = [draws(50, stream=s, seed=1, epoch=0) for s in (CAPTION, FLIP, SENTENCE)]
    streams.append(draws(50, stream=CAPTION, seed=1, epoch=1))
    streams += [crop_generator(row, seed=1, epoch=0).random(50) for row in range(2)]
    for at, one in enumerate(streams):
        for other in streams[:at]:
            assert (one != other).all()
