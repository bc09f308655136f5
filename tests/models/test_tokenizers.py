from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models.tokenizers import LOADERS, Tokenizer, TransformersTokenizer

TEXTS = ["a  cat", "one red square in the\n white picture", "dog"]


def test_texts_are_padded_to_the_longest_or_to_the_context(tokenizer: BertTokenizerFast) -> None:
    tokens = TransformersTokenizer(tokenizer, 12)
    assert isinstance(tokens, Tokenizer)
    short, full = tokens(TEXTS), tokens(TEXTS, shorten=False)
    assert short["input_ids"].shape == (3, 9)
    assert full["input_ids"].shape == (3, 12)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(full[name][:, :9], short[name])
        assert not full[name][:, 9:].any()
    assert tokens.count(TEXTS) == [4, 9, 3]


def test_a_tower_without_a_mask_gets_none(tokenizer: BertTokenizerFast) -> None:
    assert set(TransformersTokenizer(tokenizer, 12, mask=False)(TEXTS)) == {"input_ids"}


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("clean", ["none", "whitespace"])
def test_what_is_saved_is_read_back(
    tokenizer: BertTokenizerFast, tmp_path: Path, mask: bool, clean: str
) -> None:
    mine = TransformersTokenizer(tokenizer, 7, mask=mask, clean=clean)
    settings = mine.save(tmp_path / "tokenizer")
    again = LOADERS[settings["kind"]](tmp_path / "tokenizer", settings)
    assert again.identity() == mine.identity()
    assert again.context_length == 7
    for shorten in (True, False):
        first, second = (t(TEXTS, shorten=shorten) for t in (mine, again))
        assert set(first) == set(second)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_way_to_clean(tokenizer: BertTokenizerFast) -> None:
    with pytest.raises(ModelError, match="clean 'bleach' is unknown; known: none, whitespace"):
        TransformersTokenizer(tokenizer, 7, clean="bleach")
