import numpy as np
import torch

from clipkit.data import Dataset
from clipkit.data.dataset import caption_key
from clipkit.evaluate.pairs import Pairs, first_of_each, image_numbers
from clipkit.types import Sample
from tests.conftest import square


def some_data() -> Dataset:
    """Thirty rows whose pictures and captions recur at random; some have no picture."""
    rng = np.random.default_rng(0)
    images = [square("red", seed=at) for at in range(12)]
    rows = []
    for at in range(30):
        words = [f"Caption  {n}" if n % 2 else f"caption {n}" for n in rng.integers(0, 25, at % 4)]
        rows.append(
            Sample(str(at), None if at % 9 == 8 else images[rng.integers(12)], tuple(words))
        )
    return Dataset("d", rows)


def slow_matches(data: Dataset, rows: list[int]) -> set[tuple[int, int]]:
    """A caption has an image when a row has an equal caption and an equal picture."""
    captions = [(row, text) for row in rows for text in data[row].captions]
    keys = data.image_keys()

    def same(one: int, other: int) -> bool:
        return one == other or (data[one].image is not None and keys[one] == keys[other])

    return {
        (at, place)
        for at, (_, text) in enumerate(captions)
        for place, row in enumerate(rows)
        if any(same(row, own) and caption_key(text) == caption_key(t) for own, t in captions)
    }


def test_matches_are_those_of_the_slow_loop_each_once() -> None:
    data = some_data()
    rows = [row for row in range(30) if row % 5]
    pairs = Pairs.of(data, rows)
    found = [tuple(pair) for pair in pairs.matches().tolist()]
    expected = slow_matches(data, rows)
    assert len(expected) > len(pairs.captions)  # there are duplicates
    assert sorted(found) == sorted(expected)
    assert pairs.captions == [text for row in rows for text in data[row].captions]
    assert [rows[at] for at in pairs.image_of.tolist()] == [
        row for row in rows for _ in data[row].captions
    ]


def test_keys_together_are_the_distinct_matches() -> None:
    pairs = Pairs.of(some_data(), list(range(30)))
    matches = pairs.matches()
    keys = torch.stack([pairs.caption_keys[matches[:, 0]], pairs.image_keys[matches[:, 1]]], dim=1)
    assert torch.equal(keys.unique(dim=0), pairs.keys_together())


def test_data_without_captions_has_no_pairs() -> None:
    data = Dataset("d", [Sample("0", square("red")), Sample("1", square("red"))])
    pairs = Pairs.of(data, [0, 1])
    assert len(pairs.matches()) == 0
    assert pairs.image_keys.tolist() == [0, 0]


def test_rows_without_a_picture_are_alike_to_none() -> None:
    data = Dataset("d", [Sample("0", None), Sample("1", None), Sample("2", square("red"))])
    assert image_numbers(data, [2, 0, 1]).tolist() == [0, 1, 2]


def test_the_first_of_each() -> None:
    assert first_of_each(torch.tensor([2, 0, 0, 2, 1])).tolist() == [1, 4, 0]
