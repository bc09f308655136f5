import numpy as np
import pytest

from clipkit.embed.kmeans import Groups, group_rows
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError, StoreError
from tests.embed.made_stores import unit


def blobs(sizes: list[int], dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(3)
    rng.shuffle(truth)
    rows = np.eye(dim)[truth] + 0.1 * rng.normal(size=(len(truth), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def run(rows: np.ndarray, groups: int, **options: object) -> Groups:
    vectors = Vectors(rows, rows.shape[0], rows.shape[1], str(rows.dtype))
    return group_rows(vectors, groups, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [16, 8_192])
def test_it_finds_groups_that_are_there(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vectors.blocks, "__defaults__", (block,))
    rows, truth = blobs([50, 40, 30, 20])
    found = run(rows, 4)
    assert found.settled
    assert found.sizes() == [50, 40, 30, 20]
    assert found.group.tolist() == truth.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_when_settled_each_row_is_at_its_nearest_centre_and_each_centre_at_its_rows(
    seed: int,
) -> None:
    rows = unit(300, 6).astype(np.float32)
    found = run(rows, 7, seed=seed, max_steps=500)
    assert found.settled
    cosines = rows @ found.centres.T
    assert (
        np.take_along_axis(cosines, found.group[:, None], 1)[:, 0] > cosines.max(1) - 1e-6
    ).all()
    np.testing.assert_allclose(found.score, cosines.max(1), atol=1e-6)
    for group in range(7):
        mean = rows[found.group == group].sum(0)
        np.testing.assert_allclose(found.centres[group], mean / np.linalg.norm(mean), atol=1e-5)
    assert sum(found.sizes()) == 300


def test_the_same_seed_gives_the_same_groups_and_steps_do_not_hurt() -> None:
    rows = unit(300, 6).astype(np.float32)
    first, again = run(rows, 5, seed=4), run(rows, 5, seed=4)
    assert first.group.tolist() == again.group.tolist()
    assert run(rows, 5, seed=5).group.tolist() != first.group.tolist()
    means = [run(rows, 5, seed=4, max_steps=steps).score.mean() for steps in (1, 3, 50)]
    assert means == sorted(means)
    assert not run(rows, 5, seed=4, max_steps=1).settled


def test_rows_that_are_kept_and_the_nearest_of_a_group() -> None:
    rows, truth = blobs([30, 20, 10])
    keep = truth != 0
    found = run(rows, 2, keep=keep)
    assert found.rows.tolist() == np.flatnonzero(keep).tolist()
    assert found.group.tolist() == (truth[keep] - 1).tolist()
    cosines = rows @ found.centres[1]
    members = np.flatnonzero(truth == 2)
    assert found.nearest(1, 3) == members[np.argsort(-cosines[members])][:3].tolist()


def test_equal_rows_and_empty_groups() -> None:
    rows = np.repeat(unit(2, 4).astype(np.float32), 20, axis=0)
    found = run(rows, 2)
    assert found.sizes() == [20, 20]
    assert sum(run(rows, 5, max_steps=9).sizes()) == 40


def test_options_that_cannot_be_used() -> None:
    rows = unit(5, 3).astype(np.float32)
    with pytest.raises(ConfigError, match="groups"):
        run(rows, 0)
    with pytest.raises(ConfigError, match="max_steps"):
        run(rows, 2, max_steps=0)
    with pytest.raises(StoreError, match="5 rows cannot make 6 groups"):
        run(rows, 6)
