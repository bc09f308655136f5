import math

import numpy as np
import pytest
import torch

from clipkit.embed import search
from clipkit.embed.search import exact_scores, nearest_rows, rounding
from clipkit.embed.vectors import Vectors
from tests.embed.made_stores import unit


def by_hand(stored: np.ndarray, query: np.ndarray, k: int, keep: np.ndarray) -> list[int]:
    """Sort all rows by correctly rounded sums; the earlier row first."""
    scores = {
        row: math.fsum(stored[row].astype(float) * query) for row in np.flatnonzero(keep).tolist()
    }
    return sorted(scores, key=lambda row: (-round(scores[row], 13), row))[:k]


@pytest.mark.parametrize("block", [7, 64])
@pytest.mark.parametrize("k", [1, 5, 300])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_equal_a_full_sort_in_float64(
    block: int,
    k: int,
    dtype: str,
    filtered: bool,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "QUERIES", 3)
    stored = unit(200, 24).astype(dtype)
    stored[[50, 120, 199]] = stored[3]  # ties, in several blocks
    queries = np.concatenate([stored[[3, 10]].astype(float), unit(5, 24, seed=1)])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    keep = np.arange(200) % 3 > 0 if filtered else np.ones(200, bool)
    vectors = Vectors(stored, 200, 24, dtype)
    monkeypatch.setattr(Vectors.blocks, "__defaults__", (block,))
    torch.set_num_threads(threads)
    try:
        scores, rows = nearest_rows(vectors, queries, k, keep=keep if filtered else None)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    expected = [by_hand(stored, query, k, keep) for query in queries]
    assert rows.tolist() == expected
    for at, query in enumerate(queries):
        np.testing.assert_allclose(
            scores[at], stored[rows[at]].astype(float) @ query, rtol=0, atol=1e-14
        )


def test_scores_closer_than_float32_can_tell_are_in_order() -> None:
    rng = np.random.default_rng(0)
    base = unit(1, 256)[0]
    stored = (base + rng.normal(size=(3_000, 256)) * 1e-9).astype(np.float32)
    query = unit(1, 256, seed=4)
    scores, rows = nearest_rows(Vectors(stored, 3_000, 256, "float32"), query, 20)
    assert rows[0].tolist() == by_hand(stored, query[0], 20, np.ones(3_000, bool))
    assert (np.diff(scores[0]) <= 0).all()
    single = stored @ query[0].astype(np.float32)
    assert np.argsort(-single, kind="stable")[:20].tolist() != rows[0].tolist()


def test_a_float32_product_is_within_its_bound() -> None:
    for dim in (16, 512, 4_096):
        rows, query = unit(200, dim).astype(np.float32), unit(1, dim, seed=1)
        apart = rows @ query[0].astype(np.float32) - exact_scores(rows, query)
        assert np.abs(apart).max() < rounding(dim)


def test_equal_rows_have_equal_scores_wherever_they_stand() -> None:
    rows = np.repeat(unit(1, 129).astype(np.float16), 1_001, axis=0)
    assert len(np.unique(exact_scores(rows, unit(1, 129, seed=1)))) == 1


def test_fewer_rows_than_asked_for() -> None:
    stored = unit(4, 8).astype(np.float32)
    stored[2, 1] = np.nan
    vectors = Vectors(stored, 4, 8, "float32")
    assert sorted(nearest_rows(vectors, unit(1, 8, seed=2), 9)[1][0]) == [0, 1, 3]
    none = nearest_rows(vectors, unit(2, 8), 9, keep=np.zeros(4, bool))
    assert none[0].shape == none[1].shape == (2, 0)
    empty = Vectors(np.zeros((0, 8), np.float32), 0, 8, "float32")
    assert nearest_rows(empty, unit(1, 8), 3)[1].shape == (1, 0)
