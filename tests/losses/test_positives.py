import pytest
import torch
from torch import Tensor

from clipkit.losses import Duplicates, Positives
from tests.losses.pairs import (
    BATCH,
    IMAGES,
    MODES,
    TEXTS,
    alike,
    is_left_out,
    is_positive,
    positives,
)


def listed(pairs: tuple[Tensor, Tensor] | None, rows: range) -> list[tuple[int, int]]:
    """The places of a list of pairs in the whole batch."""
    if pairs is None:
        return []
    assert not len(pairs[0]) or 0 <= pairs[0].min() <= pairs[0].max() < len(rows)
    return sorted((rows[i], j) for i, j in zip(*(x.tolist() for x in pairs), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [range(BATCH), range(3), range(3, 4), range(5, BATCH)])
def test_rows_list_what_belongs_together_and_what_is_left_out(
    mode: Duplicates, rows: range
) -> None:
    places = [(i, j) for i in rows for j in range(BATCH)]
    found = positives(mode)
    assert listed(found.pairs(rows), rows) == [p for p in places if is_positive(mode, *p)]
    assert listed(found.left_out(rows), rows) == [p for p in places if is_left_out(mode, *p)]


@pytest.mark.parametrize("mode", MODES)
def test_counts_are_those_of_the_lists(mode: Duplicates) -> None:
    found = positives(mode)
    for counts, is_so in (
        (found.count, is_positive),
        (found.count_left_out, is_left_out),
    ):
        expected = [sum(is_so(mode, i, j) for j in range(BATCH)) for i in range(BATCH)]
        assert counts.tolist() == expected


@pytest.mark.parametrize("mode", MODES)
def test_share_counts_pairs_with_a_duplicate_in_any_mode(mode: Duplicates) -> None:
    images, texts = torch.tensor([*IMAGES, 90, 91]), torch.tensor([*TEXTS, 90, 91])
    have = sum(any(alike(i, j) for j in range(BATCH) if j != i) for i in range(BATCH))
    assert Positives(images, texts, mode).share() == pytest.approx(have / (BATCH + 2))


@pytest.mark.parametrize("mode", MODES)
def test_distinct_content_gives_the_diagonal_alone(mode: Duplicates) -> None:
    keys = torch.tensor([5, 3, 9, 2**62])
    found = Positives(keys, keys.flip(0), mode)
    assert listed(found.pairs(range(1, 3)), range(1, 3)) == [(1, 1), (2, 2)]
    assert found.left_out(range(4)) is None
    assert found.share() == 0


def test_distinct_content_compares_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Positives, "_duplicates")
    keys = torch.arange(6)
    assert len(Positives(keys, keys).pairs(range(6))[0]) == 6


def test_diagonal() -> None:
    rows, columns = Positives.diagonal(4, torch.device("cpu")).pairs(range(2, 4))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [2, 3])
