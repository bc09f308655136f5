"""Texts that are longer than a model reads: which of their sentences it is shown."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

LongCaptions = Literal["head", "sentence", "pieces"]
"""What stands for a caption that is too long: its beginning, one of its sentences, drawn anew each
time, or all of it, cut into pieces whose features are averaged."""

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens each of some texts has, the special ones counted, when nothing is cut."""

_END = re.compile("([.!?][\"')\u201d\u2019]*)\\s+|([\u3002\uff01\uff1f]+)")  # and CJK stops


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, which end at a stop, or at the end of a line.

    >>> sentences("A cat. It sleeps on 3.5 mats!")
    ['A cat.', 'It sleeps on 3.5 mats!']
    """
    lines = _END.sub(lambda end: f"{end[1] or end[2]}\n", text).split("\n")
    parts = [part.strip() for part in lines]
    return [part for part in parts if part] or [text]


def too_long(texts: Sequence[str], count_tokens: CountTokens, limit: int) -> list[int]:
    """Return how many tokens each text has beyond a limit, 0 for those that fit.

    A text with at least three bytes fewer than there is room for tokens is taken to fit: tokens
    have a byte or more each, and there are up to three special ones.
    """
    long = [at for at, text in enumerate(texts) if len(text.encode()) > limit - 3]
    over = [0] * len(texts)
    if long:
        counts = count_tokens([texts[at] for at in long])
        for at, count in zip(long, counts, strict=True):
            over[at] = max(count - limit, 0)
    return over
