import numpy as np
import pytest

from clipkit.embed import outliers
from clipkit.embed.outliers import find_outliers, neighbour_scores
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError, StoreError
from tests.embed.made_stores import unit


def by_hand(stored: np.ndarray, k: int, among: list[int]) -> list[float]:
    return [
        float(np.mean(sorted(float(stored[a] @ stored[b]) for b in among if b != a)[-k:]))
        for a in range(len(stored))
    ]


@pytest.mark.parametrize("block", [4, 2_048])
@pytest.mark.parametrize("k", [1, 3, 500])
def test_scores_are_means_over_the_nearest_others(
    block: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "_BLOCK", block)
    stored = unit(30, 6).astype(np.float32)
    vectors = Vectors(stored, 30, 6, "float32")
    rows, scores = neighbour_scores(vectors, k)
    expected = by_hand(stored, k, list(range(30)))
    assert rows.tolist() == list(range(30))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    keep = np.arange(30) % 2 == 0
    rows, scores = neighbour_scores(vectors, k, keep=keep)
    assert rows.tolist() == list(range(0, 30, 2))
    np.testing.assert_allclose(scores, np.array(by_hand(stored, k, rows.tolist()))[rows], atol=1e-6)


def test_the_stranger_comes_first_also_against_a_sample() -> None:
    rng = np.random.default_rng(0)
    stored = unit(1, 8)[0] + 0.05 * rng.normal(size=(200, 8))
    stored[77] = unit(1, 8, seed=9)[0]
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float32)
    vectors = Vectors(stored, 200, 8, "float32")
    found = find_outliers(vectors, 3, k=5)
    assert found[0].row == 77
    assert [o.score for o in found] == sorted(o.score for o in found)
    assert find_outliers(vectors, 3, k=5, sample=40)[0].row == 77
    assert find_outliers(vectors, 3, k=5, sample=40) == find_outliers(vectors, 3, k=5, sample=40)
    assert len(find_outliers(vectors, 999)) == 200


def test_options_that_cannot_be_used() -> None:
    vectors = Vectors(unit(5, 3).astype(np.float32), 5, 3, "float32")
    for options, word in (
        ({"k": 0}, "k must"),
        ({"sample": 10}, "sample"),
        ({"count": 0}, "count"),
    ):
        with pytest.raises(ConfigError, match=word):
            find_outliers(vectors, **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="two rows"):
        find_outliers(vectors, keep=np.arange(5) == 2)
