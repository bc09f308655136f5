"""Captions by number: which one is drawn, and which of its sentences."""

from collections import Counter

import torch

from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.captions import CaptionTable, Shortener

ROWS = [("a", "b"), ("c",), ("d", "e", "f")]
SHOWN = [["a"], ["b1", "b2"], ["c"], ["d"], ["e"], ["f1", "f2", "f3"]]


def test_each_row_shows_one_of_its_own_with_equal_chances() -> None:
    table = CaptionTable(ROWS, SHOWN)
    assert table.texts == [part for parts in SHOWN for part in parts]
    epochs = 3000
    counts: list[Counter[str]] = [Counter() for _ in ROWS]
    for epoch in range(epochs):
        for row, at in enumerate(table.drawn(seed=1, epoch=epoch).tolist()):
            counts[row][table.texts[at]] += 1
    expected: list[dict[str, float]] = [
        {"a": 1 / 2, "b1": 1 / 4, "b2": 1 / 4},
        {"c": 1.0},
        {"d": 1 / 3, "e": 1 / 3, "f1": 1 / 9, "f2": 1 / 9, "f3": 1 / 9},
    ]
    for counted, shares in zip(counts, expected, strict=True):
        assert set(counted) == set(shares)
        for text, share in shares.items():
            assert abs(counted[text] / epochs - share) < 0.04


def test_the_draw_is_a_function_of_seed_and_epoch() -> None:
    table = CaptionTable(ROWS * 50, SHOWN * 50)
    first = table.drawn(seed=1, epoch=0)
    assert torch.equal(first, CaptionTable(ROWS * 50, SHOWN * 50).drawn(seed=1, epoch=0))
    assert not torch.equal(first, table.drawn(seed=1, epoch=1))
    assert not torch.equal(first, table.drawn(seed=2, epoch=0))


def test_only_long_captions_come_apart(model: DualEncoder) -> None:
    long = "a red cat. " * 9
    shorten = Shortener(model, "sentence")
    assert shorten(["a cat. a dog.", long]) == [["a cat. a dog."], ["a red cat."] * 9]
    assert (shorten.seen, shorten.cut) == (2, 1)
    head = Shortener(model, "head")
    assert head([long, "cat"]) == [[long], ["cat"]]
    assert (head.seen, head.cut) == (2, 1)


def test_a_text_that_recurs_is_one() -> None:
    table = CaptionTable([("a", "b"), ("b", "a"), ("c",)], [["a"], ["b"], ["b"], ["a"], ["c"]])
    assert table.texts == ["a", "b", "c"]
    seen = [
        {table.texts[at] for at in row}
        for row in torch.stack([table.drawn(seed=0, epoch=e) for e in range(30)], 1).tolist()
    ]
    assert seen == [{"a", "b"}, {"a", "b"}, {"c"}]


def test_texts_that_say_the_same_have_one_key() -> None:
    table = CaptionTable([("A  cat", "a cat", "a dog")], [["A  cat"], ["a cat"], ["a dog"]])
    assert table.keys[0] == table.keys[1] != table.keys[2]
