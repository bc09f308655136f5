from collections import Counter

import numpy as np
import pytest

from clipkit.embed import negatives
from clipkit.embed.contents import Contents
from clipkit.embed.negatives import Limits, hard_negatives
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from tests.embed.made_stores import unit

ROWS, DIM, K = 60, 6, 4


def by_hand(
    stored: np.ndarray,
    ceilings: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    samples: np.ndarray,
    anchors: np.ndarray,
    among: np.ndarray,
) -> tuple[dict[int, list[int]], Counter[str]]:
    """Return the negatives of each anchor, and why others of the K nearest are none."""
    found, skipped = {}, Counter[str]()
    unit_rows = stored.astype(np.float64)
    unit_rows /= np.linalg.norm(unit_rows, axis=1, keepdims=True)
    for a in np.flatnonzero(anchors).tolist():
        scored = [
            (-float(unit_rows[a] @ unit_rows[b]), b)
            for b in np.flatnonzero(among).tolist()
            if samples[a] != samples[b]
        ]
        good = []
        for place, (score, b) in enumerate(sorted(scored)):
            reason = ""
            if images[a] == images[b] >= 0:
                reason = "image"
            elif labels[a] == labels[b] >= 0:
                reason = "label"
            elif -score > ceilings[a]:
                reason = "score"
            if not reason:
                good.append(b)
            elif place < K:
                skipped[reason] += 1
        found[a] = good[:K]
    return found, skipped


@pytest.mark.parametrize("sizes", [(4_096, 2_048), (7, 5)])
@pytest.mark.parametrize("some", [False, True])
def test_negatives_are_the_nearest_that_are_not_skipped(
    sizes: tuple[int, int], some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negatives, "_ANCHORS", sizes[0])
    monkeypatch.setattr(negatives, "_CANDIDATES", sizes[1])
    rng = np.random.default_rng(0)
    stored = (unit(ROWS, DIM) * rng.uniform(0.5, 2, (ROWS, 1))).astype(np.float32)
    samples = np.arange(ROWS) // 2 if some else np.arange(ROWS)
    count = int(samples.max()) + 1
    images, labels = rng.integers(-1, 20, count), rng.integers(-1, 5, count)
    ceilings = rng.uniform(0.3, 1, ROWS)
    anchors = rng.random(ROWS) < 0.5 if some else np.ones(ROWS, bool)
    among = rng.random(ROWS) < 0.5 if some else np.ones(ROWS, bool)
    told: list[tuple[int, int | None]] = []
    keyed = {"image": (np.arange(count), images), "label": (np.arange(count), labels)}
    blocks = list(
        hard_negatives(
            Vectors(stored, ROWS, DIM, "float32"),
            K,
            ceilings,
            Contents(keyed, samples),
            anchors=anchors if some else None,
            among=among if some else None,
            progress=lambda done, total: told.append((done, total)),
        )
    )
    expected, skipped = by_hand(
        stored, ceilings, images[samples], labels[samples], samples, anchors, among
    )
    found = {
        anchor: [row for row in rows if row >= 0]
        for block in blocks
        for anchor, rows in zip(block.anchors.tolist(), block.rows.tolist(), strict=True)
    }
    assert found == expected
    assert sum((Counter(block.skipped) for block in blocks), Counter()) == skipped
    assert set(skipped) == {"image", "label", "score"}
    assert told[-1] == (int(np.flatnonzero(anchors)[-1]) + 1, ROWS)
    lengths = np.linalg.norm(stored, axis=1)
    for block in blocks:
        assert (np.isnan(block.scores) == (block.rows < 0)).all()
        for anchor, rows, scores in zip(block.anchors, block.rows, block.scores, strict=True):
            good = rows[rows >= 0]
            exact = stored[good] @ stored[anchor] / (lengths[good] * lengths[anchor])
            np.testing.assert_allclose(scores[rows >= 0], exact, atol=1e-6)


def test_fewer_candidates_than_k_and_rows_that_are_no_numbers() -> None:
    stored = unit(5, 3).astype(np.float32)
    stored[2] = np.nan
    vectors = Vectors(stored, 5, 3, "float32")
    block = next(hard_negatives(vectors, 9, np.full(5, np.inf), Contents({})))
    assert [sorted(set(rows) - {-1}) for rows in block.rows.tolist()] == [
        [1, 3, 4],
        [0, 3, 4],
        [],
        [0, 1, 4],
        [0, 1, 3],
    ]
    assert block.skipped == {"score": 0}
    block = next(hard_negatives(vectors, 3, np.full(5, np.inf), Contents({})))
    assert (block.rows >= 0).sum(1).tolist() == [3, 3, 0, 3, 3]


def test_ceilings() -> None:
    positives = np.array([0.4, -0.1, np.nan])
    np.testing.assert_allclose(Limits().ceilings(positives), [0.38, -0.105, np.inf])
    np.testing.assert_allclose(Limits(None).ceilings(positives), [np.inf] * 3)
    limits = Limits(0.95, margin=0.05, max_score=0.37)
    np.testing.assert_allclose(limits.ceilings(positives), [0.35, -0.15, 0.37])
    np.testing.assert_allclose(Limits(None, 0.1, 0.2).ceilings(positives), [0.2, -0.2, 0.2])


def test_what_cannot_be_used() -> None:
    for options, word in (
        ({"max_share": 0}, "max_share"),
        ({"max_share": 1.1}, "max_share"),
        ({"margin": -0.1}, "margin"),
        ({"max_score": 1.5}, "max_score"),
    ):
        with pytest.raises(ConfigError, match=word):
            Limits(**options)
    vectors = Vectors(unit(5, 3).astype(np.float32), 5, 3, "float32")
    with pytest.raises(ConfigError, match="k must be at least 1, not 0"):
        next(hard_negatives(vectors, 0, np.ones(5), Contents({})))
