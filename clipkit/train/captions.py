"""Which caption a row shows in an epoch, and what is shown of a caption that is too long."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import text_key
from clipkit.data.order import CAPTION, SENTENCE, draws
from clipkit.models.dual_encoder import DualEncoder
from clipkit.sentences import LongCaptions, sentences, too_long

_AT_ONCE = 1024


class CaptionTable:
    """All captions of some rows as numbered texts: a caption is one, or its sentences are several.

    Args:
        captions: of each row, at least one.
        shown: of each caption in that order, what may be shown of it.
        key: returns equal numbers for texts that say the same.

    Attributes:
        texts: what may be shown, each once, in the order of the captions.
        keys: equal numbers for texts that say the same [texts].
    """

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        shown: Sequence[Sequence[str]],
        key: Callable[[str], int] = text_key,
    ) -> None:
        """Number the texts."""
        self._counts, self._first = _bounds(captions)
        self._parts, self._first_part = _bounds(shown)
        numbers: dict[str, int] = {}
        told = [numbers.setdefault(text, len(numbers)) for parts in shown for text in parts]
        self._numbers = torch.tensor(told)
        self.texts = list(numbers)
        self.keys = torch.tensor([key(text) for text in self.texts])

    def drawn(self, *, seed: int, epoch: int, most: int = 1) -> Int[Tensor, " visits"]:
        """Return which text each row shows in one epoch: a function of the arguments alone.

        Args:
            seed: of the choice.
            epoch: its number.
            most: how often a row is visited at most; the rows follow one another so many times.
        """
        counts = self._counts.repeat(most)
        n = len(counts)
        caption = torch.from_numpy(draws(n, stream=CAPTION, seed=seed, epoch=epoch))
        chosen = self._first.repeat(most) + (caption * counts).long()
        part = torch.from_numpy(draws(n, stream=SENTENCE, seed=seed, epoch=epoch))
        return self._numbers[self._first_part[chosen] + (part * self._parts[chosen]).long()]


class Shortener:
    """Says what may be shown of captions, and counts those that are too long.

    Args:
        model: says how many tokens it reads.
        long_captions: what stands for a caption that is longer.

    Attributes:
        seen: captions so far.
        cut: how many of them are too long.
    """

    def __init__(self, model: DualEncoder, long_captions: LongCaptions) -> None:
        """Start counting."""
        self.model = model
        self.long_captions = long_captions
        self.seen = 0
        self.cut = 0

    def __call__(self, captions: Sequence[str]) -> list[list[str]]:
        """Return for each caption itself or, where one of them is to be drawn, its sentences."""
        over: list[int] = []
        for at in range(0, len(captions), _AT_ONCE):
            some = captions[at : at + _AT_ONCE]
            over += too_long(some, self.model.count_tokens, self.model.context_length)
        self.seen += len(captions)
        self.cut += sum(tokens > 0 for tokens in over)
        if self.long_captions != "sentence":
            return [[caption] for caption in captions]
        return [sentences(c) if tokens else [c] for c, tokens in zip(captions, over, strict=True)]


def _bounds(
    groups: Sequence[Sequence[str]],
) -> tuple[Int[Tensor, " groups"], Int[Tensor, " groups"]]:
    """Return how many members each group has, and where it begins when all stand in a line."""
    counts = torch.tensor([len(group) for group in groups])
    return counts, counts.cumsum(0) - counts
