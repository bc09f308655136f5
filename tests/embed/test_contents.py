import numpy as np
import pytest

from clipkit.embed.contents import Contents


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_with_a_key_in_common(seed: int) -> None:
    rng = np.random.default_rng(seed)
    entries = rng.integers(0, 30, 60), rng.integers(-1, 12, 60)
    samples = rng.integers(0, 30, 80)
    has: dict[int, set[int]] = {sample: set() for sample in range(30)}
    for sample, key in zip(*entries, strict=True):
        has[int(sample)].add(int(key))
    rows, others = np.flatnonzero(rng.random(80) < 0.5), np.flatnonzero(rng.random(80) < 0.5)
    contents = Contents({"none": (rows[:0], rows[:0]), "text": entries}, samples)
    assert contents.names == ["none", "text"]
    found = set(zip(*(side.tolist() for side in contents.equal("text", rows, others)), strict=True))
    expected = set()
    for i, row in enumerate(rows.tolist()):
        for j, other in enumerate(others.tolist()):
            shared = has[int(samples[row])] & has[int(samples[other])] - {-1}
            if any(sum(key in keys for keys in has.values()) > 1 for key in shared):
                expected.add((i, j))
    assert found == expected
    assert len(contents.equal("none", rows, others)[0]) == 0
    same = set(zip(*(side.tolist() for side in contents.one_sample(rows, others)), strict=True))
    assert same == {
        (i, j)
        for i, row in enumerate(rows)
        for j, other in enumerate(others)
        if samples[row] == samples[other]
    }


def test_rows_are_samples_of_their_own_unless_told() -> None:
    contents = Contents({"image": (np.arange(4), np.array([5, 6, 5, -1]))})
    left, right = contents.one_sample(np.array([1, 2]), np.array([2, 3]))
    assert (left.tolist(), right.tolist()) == ([1], [0])
    left, right = contents.equal("image", np.arange(4), np.arange(4))
    pairs = sorted(zip(left.tolist(), right.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 2), (2, 0), (2, 2)]
