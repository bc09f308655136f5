from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from transformers import BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models.open_clip_tokenizers import (
    CLEAN,
    OPEN_CLIP_LOADERS,
    ClipsTokenizer,
    OpenClipTokenizer,
    StrippedTokenizer,
    make_tokenizer,
)
from clipkit.models.tokenizers import (
    CLEANERS,
    LOADERS,
    MAX_PIECES,
    Tokenizer,
    TransformersTokenizer,
)
from tests.models.open_clip_folders import (
    CAPTIONS,
    WORDS,
    padded_with_zero,
    sentencepieces,
    wordpieces,
)

TEXTS = [
    *CAPTIONS,
    "UPPER &amp;amp; lower_case, it's 3.14!\n\ttabs",
    "日本語 ﬁne “quotes”",
    "cat " * 90,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers as transformers saves them, one in each sub-folder."""
    root = tmp_path_factory.mktemp("tokenizers")
    for name, save in (
        ("siglip", sentencepieces),
        ("zero", padded_with_zero),
        ("bert", wordpieces),
    ):
        save(root / name)
    clips = BertTokenizerFast.from_pretrained(root / "bert")
    clips.add_special_tokens({"bos_token": "[BOS]", "eos_token": "[EOS]"})
    clips.save_pretrained(root / "clips")
    return root


@pytest.mark.parametrize("clean", CLEAN)
def test_texts_are_cleaned_as_open_clip_does(clean: str) -> None:
    theirs = get_clean_fn(clean)
    assert [CLEANERS[CLEAN[clean]](text) for text in TEXTS] == [theirs(text) for text in TEXTS]


@pytest.mark.parametrize("length", [8, 77])
@pytest.mark.parametrize("clean", CLEAN)
def test_byte_pairs_are_open_clips_own(clean: str, length: int) -> None:
    theirs = open_clip.SimpleTokenizer(context_length=length, clean=clean)(TEXTS)
    mine = OpenClipTokenizer(length, clean=clean)
    assert isinstance(mine, Tokenizer)
    full = mine(TEXTS, shorten=False)
    assert set(full) == {"input_ids"}
    assert torch.equal(full["input_ids"], theirs)
    short = mine(["a cat", "a dog in the sun"])["input_ids"]
    assert short.tolist() == [[49406, 320, 2368, 49407, 0, 0, 0], short[1].tolist()]
    assert mine([])["input_ids"].shape[0] == 0
    assert mine.count(["a cat", "cat " * 90, ""]) == [4, 92, 2]


@pytest.mark.parametrize(
    ("source", "options", "mode", "kind"),
    [
        ("siglip", {"clean": "canonicalize"}, "", TransformersTokenizer),
        ("zero", {}, "", TransformersTokenizer),
        ("bert", {"strip_sep_token": True}, "", StrippedTokenizer),
        ("bert", {"clean": "lower", "strip_sep_token": False}, "", TransformersTokenizer),
        ("clips", {}, "clips", ClipsTokenizer),
    ],
)
def test_tokens_of_transformers_are_open_clips_own(
    folder: Path, tmp_path: Path, source: str, options: dict[str, str | bool], mode: str, kind: type
) -> None:
    name = str(folder / source)
    theirs = HFTokenizer(name, context_length=9, tokenizer_mode=mode, **options)(TEXTS)
    config = {"context_length": 9, "hf_tokenizer_name": "x", "tokenizer_mode": mode}
    mine = make_tokenizer({**config, "tokenizer_kwargs": options}, name)
    assert type(mine) is kind
    found = mine(TEXTS, shorten=False)
    assert set(found) == {"input_ids"}
    assert torch.equal(found["input_ids"], theirs)
    settings = mine.save(tmp_path / "saved")
    again = {**LOADERS, **OPEN_CLIP_LOADERS}[settings["kind"]](tmp_path / "saved", settings)
    assert type(again) is kind
    assert again.identity() == mine.identity()
    assert torch.equal(again(TEXTS, shorten=False)["input_ids"], theirs)


def test_byte_pairs_are_saved_without_files(tmp_path: Path) -> None:
    mine = OpenClipTokenizer(20, clean="canonicalize", special_tokens=["<other>"])
    settings = mine.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    again = OPEN_CLIP_LOADERS["open_clip"](tmp_path / "saved", settings)
    assert again.identity() == mine.identity()
    assert again.context_length == 20
    assert torch.equal(again(TEXTS)["input_ids"], mine(TEXTS)["input_ids"])
    different = [OpenClipTokenizer(20), OpenClipTokenizer(20, clean="canonicalize")]
    assert all(other.identity() != mine.identity() for other in different)


def test_long_texts_come_in_pieces() -> None:
    tokenizer = OpenClipTokenizer(10)
    texts = ["a cat", "red green blue " * 7, ""]
    tokens = tokenizer(texts, pieces=True)
    assert tokens["owner"].tolist() == [0, 1, 1, 1, 2]
    assert tokens["attention_mask"].sum(1).tolist() == [4, 10, 10, 7, 2]
    ids = tokens["input_ids"]
    assert torch.equal(ids != 0, tokens["attention_mask"].bool())
    bodies = [row[1 : int(length) - 1] for row, length in zip(ids, (4, 10, 10, 7, 2), strict=True)]
    assert torch.cat(bodies[1:4]).tolist() == tokenizer.tokenizer.encode(texts[1])
    full = tokenizer(texts, pieces=True, shorten=False)
    assert full["input_ids"].shape == full["attention_mask"].shape == (5, 10)
    many = tokenizer(["cat " * 8 * 100, "dog"], pieces=True)
    assert many["owner"].tolist() == [0] * MAX_PIECES + [1]


def test_pieces_in_the_frame_of_clips(folder: Path) -> None:
    tokenizer = make_tokenizer(
        {"context_length": 9, "hf_tokenizer_name": "x", "tokenizer_mode": "clips"},
        str(folder / "clips"),
    )
    assert isinstance(tokenizer, ClipsTokenizer)
    tokens = tokenizer(["cat dog", " ".join(WORDS[2:11])], pieces=True)
    assert tokens["owner"].tolist() == [0, 1, 1]
    assert tokens["attention_mask"].sum(1).tolist() == [5, 9, 6]
    final = tokenizer.tokenizer.cls_token_id
    assert tokens["input_ids"][:, -1].tolist() == [final] * 3
    assert tokens["attention_mask"][:, -1].tolist() == [1] * 3
    assert tokenizer.count(["cat dog", ""]) == [5, 3]
    assert tokenizer([])["input_ids"].shape[0] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_kwargs": {"reduction_mask": "random"}}, "by chance"),
        ({"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "a vocabulary outside the model"),
        ({"tokenizer_kwargs": {"clean": "lowr"}}, "clean 'lowr' is unknown; did you mean 'lower'"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}, "hf_tokenizer_name": "x"}, "unknown"),
        ({"tokenizer_kwargs": {"language": "deu"}, "hf_tokenizer_name": "x"}, "language is not"),
        ({"hf_tokenizer_name": "x"}, "cannot load the tokenizer"),
        ({"hf_tokenizer_name": "x", "tokenizer_mode": "other"}, "mode 'other' is unknown"),
    ],
)
def test_what_a_tokenizer_cannot_do(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        make_tokenizer(config, str(tmp_path / "nowhere"))


def test_the_frame_of_clips_needs_its_tokens(folder: Path) -> None:
    config = {"hf_tokenizer_name": "x", "tokenizer_mode": "clips"}
    with pytest.raises(ModelError, match="needs the special tokens bos_token"):
        make_tokenizer(config, str(folder / "bert"))
