"""Pseudo-labels: what a classifier is sure enough of to be learned from (Lee 2013).

Which answers are kept is a rule on their confidence: a least one, as in FixMatch (Sohn et al. 2020,
https://arxiv.org/abs/2001.07685), or the surest so many of each label, which keeps a label that the
model is never sure of from being forgotten (https://arxiv.org/abs/2204.03649).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float, Int

from clipkit.classify.images import Images
from clipkit.classify.other import OTHER
from clipkit.classify.zero_shot import ZeroShotClassifier
from clipkit.errors import ConfigError
from clipkit.types import Progress, Sample

CHUNK = 4096
"""Images whose probabilities are held at a time; a multiple of each size of batch."""

NONE_OF_THESE = "none of these"

Two = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Columns of the likeliest labels and of the next, and the probabilities of both."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """What a classifier says of some images, in their order.

    Attributes:
        classes: the labels, "other" among them where prompts stand for it.
        first: column of the likeliest label.
        confidence: its probability, NaN for an image that could not be read.
        second: column of the next; that of the first where there is no other.
        second_confidence: its probability.
        other: whether the answer is that it is none of the labels.
        unread: the reason, for each place of an image that could not be read.
    """

    classes: tuple[str, ...]
    first: Int[np.ndarray, " images"]
    confidence: Float[np.ndarray, " images"]
    second: Int[np.ndarray, " images"]
    second_confidence: Float[np.ndarray, " images"]
    other: Bool[np.ndarray, " images"]
    unread: dict[int, str]


def guess(
    classifier: ZeroShotClassifier,
    images: Iterable[Sample],
    *,
    total: int | None = None,
    progress: Progress | None = None,
) -> Guesses:
    """Classify images, some thousands at a time, and keep the two likeliest labels of each.

    Args:
        classifier: calibrated, if its probabilities shall mean what they say.
        images: samples, or anything that gives them one by one.
        total: how many there are, where that is known.
        progress: told how many are done.

    Raises:
        ConfigError: the classifier's scores are no probabilities, see `predict_proba`.
    """
    samples, unread, start, parts = iter(images), dict[int, str](), 0, list[Two]()
    while True:
        follow = None if progress is None else _shifted(progress, start, total)
        proba = classifier.predict_proba(islice(samples, CHUNK), progress=follow)
        places = start + np.flatnonzero(np.isnan(proba[:, 0]))
        reasons = [reject.reason for reject in classifier.rejects_]
        unread.update(zip(places.tolist(), reasons, strict=True))
        parts.append(_two_likeliest(proba))
        start += len(proba)
        if len(proba) < CHUNK:
            break
    first, second, p, q = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _guesses(classifier, (first, second, p, q), unread)


def guess_features(
    classifier: ZeroShotClassifier, features: Images, rows: Sequence[int], unread: dict[int, str]
) -> Guesses:
    """Do the same with features that are there already.

    Args:
        classifier: whose model they are of.
        features: of the images that could be read.
        rows: their places among all images, ascending.
        unread: place and reason of the others.
    """
    count = len(rows) + len(unread)
    proba = np.full((count, len(classifier.classes_)), np.nan, np.float32)
    proba[list(rows)] = classifier.predict_proba(features)
    return _guesses(classifier, _two_likeliest(proba), unread)


def choose(
    guesses: Guesses, *, min_confidence: float | None = None, top_per_class: int | None = None
) -> list[str]:
    """Say of each image why its label is not kept, in a few words; empty where it is.

    Args:
        guesses: what was said of the images.
        min_confidence: the least probability that is kept.
        top_per_class: keep at most so many of a label, the surest; of equal ones the earlier.

    Raises:
        ConfigError: a number is out of range.
    """
    check_rule(min_confidence, top_per_class)
    reasons = ["" for _ in guesses.first]
    for at in np.flatnonzero(guesses.other).tolist():
        reasons[at] = NONE_OF_THESE
    if min_confidence is not None:
        for at in np.flatnonzero(guesses.confidence < min_confidence).tolist():
            reasons[at] = reasons[at] or f"confidence below {min_confidence:g}"
    for at, reason in guesses.unread.items():
        reasons[at] = reason
    if top_per_class is not None:
        left = dict.fromkeys(range(len(guesses.classes)), top_per_class)
        for at in np.argsort(-guesses.confidence, kind="stable").tolist():
            if not reasons[at]:
                label = int(guesses.first[at])
                left[label] -= 1
                if left[label] < 0:
                    reasons[at] = f"not among the surest {top_per_class} of its label"
    return reasons


def check_rule(min_confidence: float | None, top_per_class: int | None) -> None:
    """Raise ConfigError for a rule that cannot be followed."""
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence is a probability from 0 to 1, not {min_confidence}")
    if top_per_class is not None and top_per_class < 1:
        raise ConfigError(f"top_per_class is a number of images, 1 or more, not {top_per_class}")


def _two_likeliest(proba: Float[np.ndarray, "images classes"]) -> Two:
    """Return the columns of the two highest values of each row, and these; of equal, the first."""
    order = np.argsort(-proba, axis=1, kind="stable")
    first, second = order[:, 0], order[:, min(1, proba.shape[1] - 1)]
    at = np.arange(len(proba))
    return first, second, proba[at, first], proba[at, second]


def _guesses(classifier: ZeroShotClassifier, two: Two, unread: dict[int, str]) -> Guesses:
    """Add which answers are "other", as `predict` has it."""
    first, second, confidence, second_confidence = two
    classes = tuple(map(str, classifier.classes_))
    other = np.zeros(len(first), dtype=bool)
    if classes[-1] == OTHER and classifier.other is not None:
        other = first == len(classes) - 1
    if classifier.threshold_ is not None:
        other = other | (confidence < classifier.threshold_)
    return Guesses(classes, first, confidence, second, second_confidence, other, unread)


def _shifted(progress: Progress, start: int, total: int | None) -> Progress:
    """Return what tells how many of all are done, where one is told of a chunk's."""
    return lambda done, _: progress(start + done, total)
