"""From texts to tokens: one face for the tokenizers of transformers and of open_clip."""

import html
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from clipkit.errors import ModelError

Tokens = Mapping[str, Int[Tensor, "..."]]
"""`input_ids` and, where the tower wants it, `attention_mask` [pieces, tokens]; of texts in pieces
their `owner` [pieces], the text that each piece is from, ascending."""

MAX_PIECES = 32
"""Of a text in pieces, more than these are not read."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into tokens as one text tower wants them.

    Attributes:
        context_length: the most tokens of a text that are used, the special ones counted.
    """

    context_length: int

    def __call__(
        self, texts: Sequence[str], *, shorten: bool = True, pieces: bool = False
    ) -> dict[str, Int[Tensor, "..."]]:
        """Tokenise, on the CPU.

        Args:
            texts: cut at `context_length`.
            shorten: pad to the longest text only; else always to `context_length`.
            pieces: do not cut, but give each `context_length` of a text as a row of its own.
        """

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has before any is cut, the special ones counted."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what files it needs; return what `load_tokenizer` needs besides them."""

    def identity(self) -> dict[str, Any]:
        """Return settings that differ for tokenizers that give different tokens."""


class TransformersTokenizer:
    """A tokenizer of transformers that pads on the right.

    Args:
        tokenizer: of transformers.
        context_length: the most tokens of a text that are used, the special ones counted.
        mask: the tower wants an attention mask.
        clean: name of what is done to the texts first, a key of `CLEANERS`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        mask: bool = True,
        clean: str = "none",
    ) -> None:
        """Keep the parts."""
        if clean not in CLEANERS:
            raise ModelError(f"tokenizer: clean {clean!r} is unknown; known: {', '.join(CLEANERS)}")
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.mask = mask
        self.clean = clean

    def __call__(
        self, texts: Sequence[str], *, shorten: bool = True, pieces: bool = False
    ) -> dict[str, Int[Tensor, "..."]]:
        """Tokenise; see `Tokenizer`."""
        tokens = self.tokenizer(
            [CLEANERS[self.clean](text) for text in texts],
            padding=True if shorten else "max_length",
            truncation=True,
            max_length=self.context_length,
            return_overflowing_tokens=pieces,
            return_attention_mask=True,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask") if self.mask or pieces else ("input_ids",)
        found = {name: tokens[name] for name in names}
        if not pieces:
            return found
        owner = tokens["overflow_to_sample_mapping"]
        first = torch.searchsorted(owner, owner)  # where each piece's text begins
        kept = torch.arange(len(owner)) - first < MAX_PIECES
        return {name: value[kept] for name, value in {**found, "owner": owner}.items()}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count tokens; see `Tokenizer`."""
        cleaned = [CLEANERS[self.clean](text) for text in texts]
        tokens = self.tokenizer(cleaned, truncation=False, verbose=False)["input_ids"]
        return [len(ids) for ids in tokens]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files; see `Tokenizer`."""
        self.tokenizer.save_pretrained(folder)
        settings = {"kind": "transformers", "context_length": self.context_length}
        return {**settings, "mask": self.mask, "clean": self.clean}

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others; see `Tokenizer`."""
        told: dict[str, Any] = {"vocabulary": len(self.tokenizer)}
        if not self.mask or self.clean != "none":
            told.update(mask=self.mask, clean=self.clean)
        return told


def _same(text: str) -> str:
    return text


def _one_space(text: str) -> str:
    return " ".join(text.split())


def _mended(text: str) -> str:
    """Mend a wrong encoding and HTML entities, as CLIP does."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _canonical(text: str) -> str:
    """Drop punctuation and case, as SigLIP does."""
    bare = _mended(text).replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return _one_space(bare.lower())


CLEANERS: dict[str, Callable[[str], str]] = {
    "none": _same,
    "whitespace": _one_space,
    "open_clip_whitespace": lambda text: _one_space(_mended(text)),
    "open_clip_lower": lambda text: _one_space(_mended(text)).lower(),
    "open_clip_canonicalize": _canonical,
}
"""What is done to texts before they are tokenised."""


def load_transformers_tokenizer(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Read back what `TransformersTokenizer.save` wrote."""
    return TransformersTokenizer(
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        settings["context_length"],
        mask=settings.get("mask", True),
        clean=settings.get("clean", "none"),
    )


LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Tokenizer]] = {
    "transformers": load_transformers_tokenizer,
}
"""How each kind of tokenizer is read from a model folder."""
