"""What is wrong with a run, in words, from the numbers of a step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from clipkit.models.dual_encoder import MAX_LOGIT_SCALE

LEARNS_BY = 100
"""Steps after which a run should have left the start behind."""
STUCK = 0.97
"""A loss above this share of ln(batch) is that of guessing."""
COLLAPSED = 0.98
"""A mean cosine between features of different rows, from which on they are all alike."""
DUPLICATES = 0.1
WAITS = 0.3
WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a step.

    Attributes:
        step: its number, from 1.
        lowest_loss: of the pairs, of the run so far, in nats.
        guess: the loss of guessing, where it is known.
        softmax: whether the model's scores are a softmax's logits.
        logit_scale: the multiplier.
        first_logit_scale: that of the start.
        cosines: mean cosine between two features of a kind, "image" or "text".
        duplicates: share of the pairs whose picture or caption another pair has too.
    """

    step: int
    lowest_loss: float
    guess: float | None
    softmax: bool
    logit_scale: float
    first_logit_scale: float
    cosines: Mapping[str, float]
    duplicates: float


def diagnose(seen: Sight, *, duplicates: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong: its name, and a sentence with the numbers and what to do.

    Args:
        seen: of a step.
        duplicates: what duplicates count as.
    """
    late = seen.step >= LEARNS_BY
    if late and seen.guess is not None and seen.lowest_loss > STUCK * seen.guess:
        yield (
            "stuck",
            f"after {seen.step} steps the loss has not left {seen.guess:.2f}, which is that of"
            " guessing: check that captions belong to their images (clipkit data audit), then try"
            " another optim.lr",
        )
    cap = 0.999 * MAX_LOGIT_SCALE  # which many models start at
    if seen.softmax and seen.logit_scale >= cap > seen.first_logit_scale:
        yield (
            "scale_at_cap",
            f"the logit scale reached its cap of {MAX_LOGIT_SCALE:.0f} at step {seen.step}: the"
            " model fits the training pairs as sharply as it may; fewer epochs, a smaller"
            " optim.logit_scale_lr or more data will generalise better",
        )
    for side, cosine in seen.cosines.items():
        if late and cosine > COLLAPSED:
            yield (
                f"{side}_collapse",
                f"all {side} features are alike at step {seen.step} (mean cosine {cosine:.3f}):"
                " lower optim.lr or lengthen optim.warmup_steps",
            )
    if seen.duplicates > DUPLICATES:
        meaning = {
            "positive": "they count as positives of each other",
            "mask": "they are left out as negatives",
            "ignore": "they count as negatives, which teaches the model what is wrong; "
            "write duplicates: positive",
        }[duplicates]
        yield (
            "duplicates",
            f"{seen.duplicates:.0%} of the pairs of step {seen.step} share their picture or caption"
            f" with another pair of the batch: {meaning}",
        )


def diagnose_waiting(*, waited: float, seconds: float, pairs: int) -> str | None:
    """Say whether the model waits for images.

    Args:
        waited: seconds of waiting for batches.
        seconds: of training, waiting included.
        pairs: trained on meanwhile.
    """
    if seconds < WAIT_SECONDS or waited < WAITS * seconds:
        return None
    return (
        f"the model waits {waited / seconds:.0%} of the time for images: they come at"
        f" {pairs / seconds:.0f} a second and it could take {pairs / (seconds - waited):.0f}; raise"
        " workers, or store the images no larger than the model reads them"
    )


def mean_cosine(features: Float[Tensor, "rows dim"]) -> float:
    """Return the mean cosine between two different rows of L2-normalised features."""
    n = len(features)
    total = features.sum(0).square().sum() - features.square().sum()
    return float(total / max(1, n * (n - 1)))  # the host waits for the device
