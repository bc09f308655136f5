"""Few labelled images make a zero-shot head better: examples that vote, or weights that move."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.classify.head import ExampleCache, Head
from clipkit.classify.linear_head import fit_linear_head

Adapt = Literal["auto", "cache", "linear", "none"]
ADAPT = ("auto", "cache", "linear", "none")
"""What `fit` may do: the better of both, examples that vote, a linear head, or nothing."""

VOTES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Weights of the examples' votes, in units of the head's own scale."""
SHARPNESSES = (1.0, 3.0, 5.5, 10.0)
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

FOLDS = 5
LARGE = 20_000_000
"""Images times labels from which on one fold is left out instead of five in turn."""
STEPS = 200


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to make a head of examples.

    Attributes:
        method: "none", "cache" or "linear".
        vote: of "cache", in units of the head's scale.
        sharpness: of "cache".
        penalty: of "linear".
    """

    method: Literal["none", "cache", "linear"]
    vote: float = 0.0
    sharpness: float = 0.0
    penalty: float = 0.0


ALONE: dict[Adapt, Choice] = {
    "none": Choice("none"),
    "cache": Choice("cache", 0.3, 3.0),
    "linear": Choice("linear", penalty=1e-3),
    "auto": Choice("linear", penalty=1e-3),
}
"""What is taken where no label has two images, so that none can be left out to choose by."""


@dataclass(frozen=True, slots=True)
class FewShot:
    """What `fit` did, and how it was chosen.

    Attributes:
        choice: what was taken.
        images: how many it was fitted on.
        folds: how many parts of them were left out in turn; 0 where that was not possible.
        accuracy: share of the images left out that were classified right; of all images, where none
            could be left out.
        zero_shot_accuracy: of the zero-shot head on the same images.
    """

    choice: Choice
    images: int
    folds: int
    accuracy: float
    zero_shot_accuracy: float


def adapt_head(
    head: Head,
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    adapt: Adapt,
) -> tuple[Head, FewShot]:
    """Make a head better with labelled images.

    Two ways are tried, each with several settings. In one the images vote for their labels beside
    the head, without training (Tip-Adapter, https://arxiv.org/abs/2111.03930). In the other a
    linear classifier that begins at the head's weights, and is drawn back to them, learns from the
    images. What names most images right that were left out of the fit is taken, the lower
    cross-entropy among equals; nothing changes where that is the head as it was, or where the
    result would name fewer of the given images right than the head did.

    Args:
        head: the zero-shot head.
        features: of the images, L2-normalised.
        labels: columns of the head.
        adapt: a member of `ADAPT`.
    """
    if adapt == "auto" and len(labels.unique()) < len(head.bias):
        adapt = "linear"  # votes, which labels without images do not have, would drown those
    folds = _folds(labels, len(head.bias))
    zero_shot = _right(head(features), labels)
    if not folds or adapt == "none":
        choice = ALONE[adapt]
        made = next(_heads(head, features, labels, [choice]))
        accuracy, judged = _right(made(features), labels), zero_shot
    else:
        choices = _choices(adapt)
        choice, accuracy = _best(head, features, labels, choices, folds)
        left_out = torch.cat([fold.nonzero()[:, 0] for fold in folds])
        judged = _right(head(features[left_out]), labels[left_out])
        *_, made = _heads(head, features, labels, _way(choice))
    if _right(made(features), labels) < zero_shot:
        choice, made, accuracy = Choice("none"), head, judged
    count = 0 if adapt == "none" else len(folds)
    return made, FewShot(choice, len(labels), count, accuracy, judged)


def left_out_logits(
    head: Head,
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    choice: Choice,
) -> tuple[Float[Tensor, "judged classes"], Int[Tensor, " judged"]]:
    """Return logits of images that a head was fitted on, as one that never saw them gives them.

    Each image is left out once, with a fifth of the others, and judged by a head of the same choice
    that is made of the rest. An only image of its label is never left out.

    Args:
        head: the zero-shot head.
        features: of the images, L2-normalised.
        labels: columns of the head.
        choice: what `adapt_head` took.

    Returns:
        The logits, and which images they are of; none where no label has two images.
    """
    if choice.method == "none":  # which has learned from none of them
        return head(features), torch.arange(len(labels))
    logits, rows = [features.new_zeros(0, len(head.bias))], [torch.zeros(0, dtype=torch.long)]
    for fold in _folds(labels, len(head.bias)):
        *_, made = _heads(head, features[~fold], labels[~fold], _way(choice))
        logits.append(made(features[fold]))
        rows.append(fold.nonzero()[:, 0])
    return torch.cat(logits), torch.cat(rows)


def _way(choice: Choice) -> list[Choice]:
    """Return the choices that lead to one: a search cut short depends on where it began."""
    if choice.method != "linear":
        return [choice]
    passed = PENALTIES[: PENALTIES.index(choice.penalty) + 1]
    return [Choice("linear", penalty=penalty) for penalty in passed]


def _choices(adapt: Adapt) -> list[Choice]:
    """Return what is compared, the least change first: the first among equals is taken."""
    choices = [Choice("none")]
    if adapt in ("auto", "linear"):
        choices += [Choice("linear", penalty=penalty) for penalty in PENALTIES]
    if adapt in ("auto", "cache"):
        choices += [Choice("cache", vote, sharp) for vote in VOTES for sharp in SHARPNESSES]
    return choices


def _folds(labels: Int[Tensor, " images"], classes: int) -> list[Tensor]:
    """Split images into parts that are left out in turn; those of each label are dealt out evenly.

    An only image of its label is never left out: nothing could be learned about it then.
    """
    counts = torch.bincount(labels, minlength=classes)
    number = min(FOLDS, int(counts.max()))
    if number < 2:
        return []
    order = torch.argsort(labels, stable=True)
    place = torch.empty_like(order)
    starts = counts.cumsum(0) - counts
    place[order] = torch.arange(len(labels)) - starts[labels[order]]
    fold = (place % number).masked_fill(counts[labels] == 1, number)
    if len(labels) * classes > LARGE:
        return [fold == 0]
    return [fold == at for at in range(number)]


def _best(
    head: Head,
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    choices: Sequence[Choice],
    folds: Sequence[Tensor],
) -> tuple[Choice, float]:
    """Return the choice that classifies best what it was not fitted on, and its accuracy there."""
    right, loss, count = [0.0] * len(choices), [0.0] * len(choices), 0
    for fold in folds:
        truth = labels[fold]
        count += len(truth)
        for at, made in enumerate(_heads(head, features[~fold], labels[~fold], choices)):
            logits = made(features[fold])
            right[at] += float((logits.argmax(1) == truth).sum())
            loss[at] += float(torch.nn.functional.cross_entropy(logits, truth, reduction="sum"))
    best = min(range(len(choices)), key=lambda at: (-right[at], loss[at]))
    return choices[best], right[best] / count


def _heads(
    head: Head,
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    choices: Sequence[Choice],
) -> Iterator[Head]:
    """Yield the head of each choice; a linear one begins its search at the one before it."""
    scale = float(head.weights.norm(dim=1).mean())
    # Labels without images keep their prompts: nothing is known that would speak against them.
    seen, own = labels.unique(return_inverse=True)
    begin = None
    for choice in choices:
        if choice.method == "none":
            yield head
        elif choice.method == "cache":
            weight = choice.vote * scale
            examples = ExampleCache(features, labels, weight, choice.sharpness)
            yield Head(head.weights, head.bias, examples)
        else:
            begin = fit_linear_head(
                features,
                own,
                len(seen),
                penalty=choice.penalty,
                start=head.weights[seen],
                bias=False,
                begin=begin,
                steps=STEPS,
            )
            weights = head.weights.clone()
            weights[seen] = begin[0]
            yield Head(weights, head.bias)


def _right(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """Return the share of images whose label has the highest logit."""
    return float((logits.argmax(1) == labels).float().mean())
