import math

import numpy as np
import pytest

from clipkit.embed import duplicates
from clipkit.embed.duplicates import Duplicate, find_duplicates
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from tests.embed.made_stores import unit


def by_hand(stored: np.ndarray, threshold: float, kept: list[int]) -> list[Duplicate]:
    """Walk from row to row over all pairs."""

    def cosine(a: int, b: int) -> float:
        x, y = stored[a].astype(float), stored[b].astype(float)
        return math.fsum(x * y) / math.sqrt(math.fsum(x * x) * math.fsum(y * y))

    near = {a: {b for b in kept if b != a and cosine(a, b) >= threshold} for a in kept}
    seen: set[int] = set()
    found: list[Duplicate] = []
    group = 0
    for row in kept:
        if row in seen or not near[row]:
            continue
        members, edge = {row}, [row]
        while edge:
            for other in near[edge.pop()] - members:
                members.add(other)
                edge.append(other)
        seen |= members
        for member in sorted(members):
            best = max(near[member], key=lambda b: (round(cosine(member, b), 12), -b))
            found.append(Duplicate(group, member, cosine(member, best), best))
        group += 1
    return found


@pytest.mark.parametrize("block", [3, 16, 2_048])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_groups_are_those_of_all_pairs(
    block: int, dtype: str, filtered: bool, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_PAIRS", 5)
    stored = unit(60, 5).astype(dtype)
    stored[[20, 41, 59]] = stored[2]
    keep = np.arange(60) % 4 > 0 if filtered else np.ones(60, bool)
    found = find_duplicates(
        Vectors(stored, 60, 5, dtype), threshold, keep=keep if filtered else None
    )
    expected = by_hand(stored, threshold, np.flatnonzero(keep).tolist())
    assert [(d.group, d.row) for d in found] == [(d.group, d.row) for d in expected]
    np.testing.assert_allclose([d.score for d in found], [d.score for d in expected], atol=1e-12)
    assert [d.nearest for d in found] == [d.nearest for d in expected]
    assert len({d.group for d in expected}) > 1


def test_a_chain_is_one_group_though_its_ends_are_apart() -> None:
    angles = np.radians([0, 10, 20, 30, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = find_duplicates(Vectors(rows, 5, 2, "float32"), math.cos(math.radians(10.5)))
    assert [(d.group, d.row) for d in found] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_equal_rows_in_float16_have_cosine_1_whatever_rounding_did_to_their_length() -> None:
    rows = np.repeat(unit(1, 300).astype(np.float16), 5, axis=0)
    found = find_duplicates(Vectors(rows, 5, 300, "float16"), 1 - 1e-9)
    assert len(found) == 5
    assert [d.nearest for d in found] == [1, 0, 0, 0, 0]
    assert min(d.score for d in found) > 1 - 1e-12


def test_thresholds_that_are_none() -> None:
    for threshold in (0, 1.5, -1, math.nan):
        with pytest.raises(ConfigError, match="threshold must be"):
            find_duplicates(Vectors(np.ones((1, 1), np.float32), 1, 1, "float32"), threshold)
