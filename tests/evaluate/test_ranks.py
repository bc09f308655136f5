"""Ranks block by block against a loop in double precision, with ties and duplicates."""

from itertools import product

import pytest
import torch
from torch import Tensor

from clipkit.evaluate import ranks as module
from clipkit.evaluate.ranks import blocks, match_ranks, match_ranks_both_ways


def slow_ranks(queries: Tensor, gallery: Tensor, matches: Tensor) -> list[int]:
    """Count one by one; products of single numbers are exact in double precision, sums nearly."""
    ranks = []
    for i, query in enumerate(queries.double()):
        mine = {int(j) for q, j in matches if q == i}
        scores = [float((query * row).sum()) for row in gallery.double()]
        best = max((scores[j] for j in mine), default=-float("inf"))
        ranks.append(sum(s >= best for j, s in enumerate(scores) if j not in mine))
    return ranks


def small_blocks(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "COLUMNS", columns)
    monkeypatch.setattr(module, "PAIRS", 5)


def some_matches(queries: int, gallery: int) -> Tensor:
    """One to three of each query, but none of query 2."""
    pairs = [(q, int(j)) for q in range(queries) for j in torch.randperm(gallery)[: 1 + q % 3]]
    kept = torch.tensor([pair for pair in pairs if pair[0] != 2])
    return kept[torch.randperm(len(kept))]


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (7, 4), (1024, 8192)])
def test_ranks_equal_the_slow_loop(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch, rows, columns)
    torch.manual_seed(0)
    queries, gallery = torch.randn(17, 4), torch.randn(29, 4)
    matches = some_matches(17, 29)
    there, back = match_ranks_both_ways(queries, gallery, matches)
    assert there.tolist() == slow_ranks(queries, gallery, matches)
    assert back.tolist() == slow_ranks(gallery, queries, matches.flip(1))
    assert torch.equal(match_ranks(queries, gallery, matches), there)
    assert there[2] == 29


@pytest.mark.parametrize("rounded", ["as is", "noisy", "double"])
@pytest.mark.parametrize("dim", [3, 512])
def test_ties_and_duplicates_whatever_the_rounding(
    dim: int, rounded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of matches tie with them exactly, also where a product rounds each place otherwise."""
    small_blocks(monkeypatch, 16, 32)
    torch.manual_seed(1)
    base = torch.nn.functional.normalize(torch.randn(12, dim), dim=1)
    gallery = base[torch.randint(12, (80,))]
    queries = torch.cat([base, torch.nn.functional.normalize(torch.randn(20, dim), dim=1)])
    matches = some_matches(32, 80)
    if rounded == "double":
        queries, gallery = queries.double(), gallery.double()
    if rounded == "noisy":
        plain = Tensor.__matmul__

        def noisy(a: Tensor, b: Tensor) -> Tensor:
            """Be off by nearly as much as a product of single numbers can be."""
            exact = plain(a.double(), b.double())
            if a.dtype == torch.float64:
                return exact
            most = 0.5 * dim * torch.finfo(a.dtype).eps
            return (exact + (2 * torch.rand_like(exact) - 1) * most).float()

        monkeypatch.setattr(Tensor, "__matmul__", noisy)
    there, back = match_ranks_both_ways(queries, gallery, matches)
    expected = slow_ranks(queries, gallery, matches)
    assert there.tolist() == expected
    assert back.tolist() == slow_ranks(gallery, queries, matches.flip(1))
    best_alone = [int((s > s[m].max()).sum()) for s, m in _scores(queries, gallery, matches)]
    assert best_alone != [e for q, e in enumerate(expected) if q != 2]  # ties there are


def _scores(queries: Tensor, gallery: Tensor, matches: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [
        ((gallery.double() * query).sum(1), matches[matches[:, 0] == q, 1])
        for q, query in enumerate(queries.double())
        if q != 2
    ]


def test_a_model_that_cannot_tell_ranks_last(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 4, 4)
    same = torch.nn.functional.normalize(torch.ones(6, 7), dim=1)
    pairs = torch.arange(6)[:, None].expand(6, 2)
    assert match_ranks(same, same, pairs).tolist() == [5] * 6
    ranks = match_ranks(torch.ones(3, 2), torch.ones(5, 2), torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert ranks.tolist() == [4, 4, 4]


def test_what_is_no_number_is_never_found() -> None:
    broken = torch.full((4, 3), torch.nan)
    pairs = torch.arange(4)[:, None].expand(4, 2)
    there, back = match_ranks_both_ways(broken, torch.eye(4, 3), pairs)
    assert min(there.tolist() + back.tolist()) >= 3
    one = torch.eye(4)
    one[3] = torch.nan
    for sides, order in (((torch.eye(4), one), 1), ((one, torch.eye(4)), -1)):
        found = [ranks.tolist() for ranks in match_ranks_both_ways(*sides, pairs)]
        assert found[::order] == [[1, 1, 1, 4], [0, 0, 0, 4]]


def test_nothing_to_rank() -> None:
    none = torch.zeros(0, 2, dtype=torch.long)
    assert match_ranks(torch.zeros(0, 3), torch.ones(2, 3), none).tolist() == []
    assert match_ranks(torch.ones(2, 3), torch.ones(5, 3), none).tolist() == [5, 5]


def test_blocks_cover_each_place_and_each_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 3, 4)
    pairs = torch.tensor([(6, 9), (0, 0), (2, 4), (3, 3), (6, 8)])
    seen, found = [], []
    for rows, columns, row, column in blocks(7, 10, pairs):
        assert rows.stop - rows.start <= 3
        assert columns.stop - columns.start <= 4
        seen += list(product(range(rows.start, rows.stop), range(columns.start, columns.stop)))
        found += [
            (rows.start + int(r), columns.start + int(c)) for r, c in zip(row, column, strict=True)
        ]
    assert sorted(seen) == list(product(range(7), range(10)))
    assert sorted(found) == sorted(map(tuple, pairs.tolist()))
