"""Hard negatives: of each row the nearest others that are not, after all, the same thing.

What is near may be no negative but a picture or a caption that fits as well. Those are skipped by
content, and by score: positive-aware mining, Moreira et al. 2024, NV-Retriever,
https://arxiv.org/abs/2407.15831, skips what comes too close to the score of an anchor's positive.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.embed.contents import Contents
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError
from clipkit.types import Progress

TOO_NEAR = "score"
"""The reason for skipping a candidate whose score is above the limit; others are contents."""

_ANCHORS = 4_096  # rows of a block; more of them take fewer passes over the candidates
_CANDIDATES = 2_048


@dataclass(frozen=True, slots=True)
class Limits:
    """Above which score a candidate counts as a false negative.

    Attributes:
        max_share: this share of the score of the anchor's positive; of a score below 0, as far
            below it as the same share of a score above 0 would be.
        margin: so much less than the score of the positive.
        max_score: this cosine.

    Raises:
        ConfigError: a number is out of range.
    """

    max_share: float | None = 0.95
    margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise ConfigError(f"max_share must be above 0 and at most 1, not {self.max_share}")
        if self.margin is not None and not 0 <= self.margin <= 2:
            raise ConfigError(f"margin must be a difference of cosines, 0 to 2, not {self.margin}")
        if self.max_score is not None and not -1 < self.max_score <= 1:
            raise ConfigError(
                f"max_score must be a cosine above -1 and at most 1, not {self.max_score}"
            )

    def ceilings(self, positives: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Return the highest score that a negative of each anchor may have.

        Args:
            positives: score of the positive of each; nan where there is none, which leaves
                `max_score` alone.
        """
        highest = np.full(len(positives), np.inf if self.max_score is None else self.max_score)
        if self.max_share is not None:
            share = positives - (1 - self.max_share) * np.abs(positives)
            highest = np.fmin(highest, share)
        if self.margin is not None:
            highest = np.fmin(highest, positives - self.margin)
        return highest


@dataclass(frozen=True, slots=True)
class Negatives:
    """The hard negatives of some anchors.

    Attributes:
        anchors: these rows.
        rows: of each the negatives, the nearest first; -1 where there are no more.
        scores: their cosines; nan where there are no more.
        skipped: how many of the k nearest of all anchors were skipped, by reason.
    """

    anchors: Int[np.ndarray, " anchors"]
    rows: Int[np.ndarray, "anchors k"]
    scores: Float[np.ndarray, "anchors k"]
    skipped: dict[str, int]


def hard_negatives(
    vectors: Vectors,
    k: int,
    ceilings: Float[np.ndarray, " rows"],
    contents: Contents,
    *,
    anchors: Bool[np.ndarray, " rows"] | None = None,
    among: Bool[np.ndarray, " rows"] | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Iterator[Negatives]:
    """Yield the k hardest negatives of each anchor, some thousands of anchors at a time.

    Every anchor is compared with every candidate, in float32, so the time grows with their product;
    memory does not grow with the rows. A row whose numbers are not finite is neither.

    Args:
        vectors: the rows.
        k: how many negatives; an anchor that has fewer gets these.
        ceilings: the highest score that a negative of each row may have, see `Limits`.
        contents: rows that have some of it in common are no negatives of each other. Rows of one
            sample, such as an image and its captions, are not even candidates.
        anchors: for each row whether negatives are looked for; all when `None`.
        among: for each row whether it may be one; all when `None`.
        device: where to multiply; the CPU when `None`.
        progress: told how many rows are done, and of how many.

    Raises:
        ConfigError: `k` is below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")
    reasons = [*contents.names, TOO_NEAR]
    for rows, held in _blocks(vectors, _ANCHORS, anchors, device):
        highest = torch.from_numpy(ceilings[rows]).to(held)
        nearest, good = _Best(len(rows), k, device), _Best(len(rows), k, device)
        for others, against in _blocks(vectors, _CANDIDATES, among, device):
            cosines = (held @ against.T).nan_to_num_(-torch.inf)
            cosines[_places(*contents.one_sample(rows, others), device)] = -torch.inf
            why = (cosines > highest[:, None]).to(torch.int8) * len(reasons)
            for number, name in reversed([*enumerate(reasons[:-1], start=1)]):
                why[_places(*contents.equal(name, rows, others), device)] = number
            nearest.add(cosines, why)
            cosines[why > 0] = -torch.inf
            good.add(cosines, torch.from_numpy(others).to(device).expand_as(cosines))
        yield _negatives(rows, nearest, good, reasons)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(vectors))


class _Best:
    """The highest scores of some rows so far, each with a number.

    Attributes:
        scores: the highest first; -inf where there are no more.
        numbers: what came with them.
    """

    def __init__(self, rows: int, k: int, device: torch.device | None) -> None:
        """Know none yet."""
        self.scores = torch.full((rows, k), -torch.inf, device=device)
        self.numbers = torch.full((rows, k), -1, device=device)

    def add(
        self, scores: Float[Tensor, "rows others"], numbers: Int[Tensor, "rows others"]
    ) -> None:
        """Take the best of further scores."""
        k = self.scores.shape[1]
        near, at = scores.topk(min(k, scores.shape[1]), dim=1)
        self.scores, chosen = torch.cat([self.scores, near], 1).topk(k, dim=1)
        self.numbers = torch.cat([self.numbers, numbers.gather(1, at)], 1).gather(1, chosen)


def _blocks(
    vectors: Vectors, size: int, keep: Bool[np.ndarray, " rows"] | None, device: torch.device | None
) -> Iterator[tuple[Int[np.ndarray, " some"], Float[Tensor, "some dim"]]]:
    """Yield the rows that are kept and their embeddings, brought to length 1."""
    for start, block in vectors.blocks(size, keep=keep):
        kept = np.arange(len(block)) if keep is None else np.flatnonzero(keep[start:][: len(block)])
        yield kept + start, normalize(block[torch.from_numpy(kept)].to(device))


def _places(
    left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"], device: torch.device | None
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    return torch.from_numpy(left).to(device), torch.from_numpy(right).to(device)


def _negatives(
    rows: Int[np.ndarray, " rows"], nearest: _Best, good: _Best, reasons: list[str]
) -> Negatives:
    """Return what was found for a block of anchors."""
    numbers = nearest.numbers[nearest.scores > -torch.inf].cpu()
    counts = torch.bincount(numbers, minlength=len(reasons) + 1).tolist()
    found = (good.scores > -torch.inf).cpu().numpy()
    return Negatives(
        rows,
        np.where(found, good.numbers.cpu().numpy(), -1),
        np.where(found, good.scores.cpu().numpy(), np.nan).astype(np.float32),
        dict(zip(reasons, counts[1:], strict=True)),
    )
