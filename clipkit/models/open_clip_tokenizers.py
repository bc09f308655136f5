"""open_clip's ways from texts to tokens: CLIP's own byte pairs, and transformers' in its frames."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from clipkit.errors import ModelError, did_you_mean
from clipkit.models.tokenizers import CLEANERS, MAX_PIECES, Tokenizer, TransformersTokenizer

CLEAN = {
    "lower": "open_clip_lower",
    "whitespace": "open_clip_whitespace",
    "canonicalize": "open_clip_canonicalize",
}
"""open_clip's names of the ways to clean a text, and ours in `CLEANERS`."""


class FramedTokenizer(ABC):
    """Puts a text's tokens between a first and a last one and pads on the right.

    Args:
        context_length: the most tokens of a text that are used, those of the frame counted.
        start: the token before a text's own.
        end: the token after them.
        pad: fills up the rest.
        final: a token behind the padding, or none.
    """

    def __init__(
        self, context_length: int, *, start: int, end: int, pad: int = 0, final: int | None = None
    ) -> None:
        """Keep the parts."""
        self.context_length = context_length
        self.start, self.end, self.pad = start, end, pad
        self.finals = [] if final is None else [final]

    @abstractmethod
    def bodies(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's own tokens, all of them."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Write what files it needs; see `Tokenizer`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what tells it from others; see `Tokenizer`."""

    def __call__(
        self, texts: Sequence[str], *, shorten: bool = True, pieces: bool = False
    ) -> dict[str, Int[Tensor, "..."]]:
        """Tokenise; see `Tokenizer`."""
        room = self.context_length - 2 - len(self.finals)
        rows: list[list[int]] = []
        owner: list[int] = []
        for number, body in enumerate(self.bodies(texts)):
            for at in range(0, max(1, len(body)), room)[: MAX_PIECES if pieces else 1]:
                rows.append([self.start, *body[at : at + room], self.end])
                owner.append(number)
        width = max(map(len, rows), default=2) if shorten else room + 2
        padding = [self.pad] * width
        ids = [[*row, *padding[len(row) :], *self.finals] for row in rows]
        shape = (len(rows), width + len(self.finals))
        found = {"input_ids": torch.tensor(ids, dtype=torch.long).reshape(shape)}
        if pieces:
            lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
            behind = torch.arange(shape[1]) >= width
            mask = (torch.arange(shape[1]) < lengths[:, None]) | behind
            found["attention_mask"] = mask.long()
            found["owner"] = torch.tensor(owner, dtype=torch.long)
        return found

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count tokens; see `Tokenizer`."""
        return [len(body) + 2 + len(self.finals) for body in self.bodies(texts)]


class OpenClipTokenizer(FramedTokenizer):
    """CLIP's byte pair encoding (Radford et al. 2021), as open_clip's `SimpleTokenizer` has it.

    Args:
        context_length: the most tokens of a text that are used, the special ones counted.
        clean: what is done to the texts first: "lower", "whitespace" or "canonicalize".
        special_tokens: further ones after `<start_of_text>` and `<end_of_text>`.
    """

    def __init__(
        self, context_length: int = 77, *, clean: str = "lower", special_tokens: Sequence[str] = ()
    ) -> None:
        """Read the vocabulary that comes with open_clip."""
        from open_clip import SimpleTokenizer

        _known_clean(clean)
        self.clean = clean
        self.special_tokens = list(special_tokens)
        self.tokenizer = SimpleTokenizer(
            context_length=context_length,
            clean=clean,
            additional_special_tokens=self.special_tokens or None,
        )
        super().__init__(
            context_length, start=self.tokenizer.sot_token_id, end=self.tokenizer.eot_token_id
        )

    def bodies(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's own tokens, all of them."""
        return [self.tokenizer.encode(text) for text in texts]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write no files: the vocabulary comes with open_clip; see `Tokenizer`."""
        return {"kind": "open_clip", "context_length": self.context_length, **self._settings()}

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others; see `Tokenizer`."""
        return {"vocabulary": self.tokenizer.vocab_size, "kind": "open_clip", **self._settings()}

    def _settings(self) -> dict[str, Any]:
        return {"clean": self.clean, "special_tokens": self.special_tokens}


class ClipsTokenizer(FramedTokenizer):
    """The frame of CLIPS (Liu et al. 2024, https://arxiv.org/abs/2411.16828).

    A text's tokens between the beginning and the end of a sentence, padding, and the class token
    at the very end.

    Args:
        tokenizer: of transformers, with these special tokens.
        context_length: the most tokens of a text that are used, the special ones counted.
        clean: name of what is done to the texts first, a key of `CLEANERS`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context_length: int, *, clean: str
    ) -> None:
        """Keep the parts; raises ModelError where a special token is missing."""
        names = ("bos_token", "eos_token", "pad_token", "cls_token")
        start, end, pad, final = (getattr(tokenizer, f"{name}_id") for name in names)
        if None in (start, end, pad, final):
            raise ModelError(f"tokenizer_mode 'clips' needs the special tokens {', '.join(names)}")
        super().__init__(context_length, start=start, end=end, pad=pad, final=final)
        self.tokenizer = tokenizer
        self.clean = clean

    def bodies(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's own tokens, all of them."""
        if not texts:
            return []
        cleaned = [CLEANERS[self.clean](text) for text in texts]
        found = self.tokenizer(cleaned, add_special_tokens=False, truncation=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files; see `Tokenizer`."""
        self.tokenizer.save_pretrained(folder)
        settings = {"context_length": self.context_length, "clean": self.clean}
        return {"kind": "open_clip_clips", **settings}

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others; see `Tokenizer`."""
        return {"vocabulary": len(self.tokenizer), "kind": "open_clip_clips", "clean": self.clean}


class StrippedTokenizer(TransformersTokenizer):
    """Of transformers, with 0 for each separator: open_clip's `strip_sep_token`, as CLIPA wants."""

    def __call__(
        self, texts: Sequence[str], *, shorten: bool = True, pieces: bool = False
    ) -> dict[str, Int[Tensor, "..."]]:
        """Tokenise; see `Tokenizer`."""
        found = super().__call__(texts, shorten=shorten, pieces=pieces)
        ids = found["input_ids"]
        return {**found, "input_ids": ids.masked_fill(ids == self.tokenizer.sep_token_id, 0)}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files; see `Tokenizer`."""
        return {**super().save(folder), "kind": "open_clip_stripped"}

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others; see `Tokenizer`."""
        return {**super().identity(), "kind": "open_clip_stripped"}


def make_tokenizer(text_config: Mapping[str, Any], source: str) -> Tokenizer:
    """Make the tokenizer that a text tower's configuration asks for.

    Args:
        text_config: `text_cfg` of open_clip's model configuration.
        source: where a tokenizer of transformers comes from, a folder or a name on the hub.

    Raises:
        ModelError: when there is no such tokenizer, or it is asked for what cannot be done.
    """
    length = int(text_config.get("context_length", 77))
    options = dict(text_config.get("tokenizer_kwargs") or {})
    mode = text_config.get("tokenizer_mode") or ""
    of_transformers = bool(text_config.get("hf_tokenizer_name"))
    clean = _known_clean(options.pop("clean", "whitespace" if of_transformers else "lower"))
    strip = bool(options.pop("strip_sep_token", False)) if of_transformers else False
    special = () if of_transformers else options.pop("additional_special_tokens", None) or ()
    for name, value in options.items():
        if value:
            raise ModelError(f"tokenizer_kwargs: {_WHY.get(name, f'{name} is unknown')}")
    if not of_transformers:
        return OpenClipTokenizer(length, clean=clean, special_tokens=special)
    if mode not in ("", "clips"):
        raise ModelError(f"tokenizer_mode {mode!r} is unknown; known: clips")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"transformers cannot load the tokenizer {source!r}: {reason}") from None
    if mode == "clips":
        return ClipsTokenizer(tokenizer, length, clean=CLEAN[clean])
    kind = StrippedTokenizer if strip else TransformersTokenizer
    return kind(tokenizer, length, mask=False, clean=CLEAN[clean])


_WHY = {
    "reduction_mask": "reduction_mask draws a text's tokens by chance, so that the same text would"
    " have other features each time: take it out of the configuration",
    "bpe_path": "bpe_path names a vocabulary outside the model: only open_clip's own is read",
    "language": "language is not supported: save the tokenizer with that language as its own",
}


def _known_clean(clean: str) -> str:
    if clean not in CLEAN:
        raise ModelError(
            f"tokenizer_kwargs: clean {clean!r} is unknown{did_you_mean(clean, CLEAN)}"
        )
    return clean


def _load_own(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    return OpenClipTokenizer(
        settings["context_length"],
        clean=settings["clean"],
        special_tokens=settings["special_tokens"],
    )


def _load_clips(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipsTokenizer(tokenizer, settings["context_length"], clean=settings["clean"])


def _load_stripped(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return StrippedTokenizer(
        tokenizer, settings["context_length"], mask=settings["mask"], clean=settings["clean"]
    )


OPEN_CLIP_LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Tokenizer]] = {
    "open_clip": _load_own,
    "open_clip_clips": _load_clips,
    "open_clip_stripped": _load_stripped,
}
"""How each kind of tokenizer is read from a model folder."""
