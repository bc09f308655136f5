"""Scores before and after: on the user's data, and on what must not be forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from clipkit.errors import ConfigError, did_you_mean
from clipkit.evaluate.encoder import Encoder
from clipkit.models.dual_encoder import DualEncoder

Scores = dict[str, dict[str, dict[str, float]]]
"""Section ("data" or "general"), then the evaluator's prefix, then the metric."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores a model; `clipkit.evaluate` has those that a recipe can name."""

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        """Return metrics by name."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """An evaluator and when it runs.

    Attributes:
        section: "data" for the user's own, "general" for what must not be forgotten.
        prefix: the name its metrics get.
        evaluator: what scores the model.
        every_steps: also run every so many steps; 0 for before and after alone.
    """

    section: str
    prefix: str
    evaluator: Evaluator
    every_steps: int = 0


def score(model: DualEncoder, scorings: Sequence[Scoring], encoder: Encoder) -> Scores:
    """Run evaluators in evaluation mode; training mode is restored."""
    was_training = model.training
    model.eval()
    scores: Scores = {}
    for scoring in scorings:
        section = scores.setdefault(scoring.section, {})
        section[scoring.prefix] = scoring.evaluator(model, encoder)
    model.train(was_training)
    return scores


def pick(scores: Scores, metric: str) -> float:
    """Return `prefix.metric` from scores.

    Raises:
        ConfigError: when there is no such metric.
    """
    flat = flatten(scores)
    if metric not in flat:
        raise ConfigError(f"best: no metric {metric!r}{did_you_mean(metric, flat)}")
    return flat[metric]


def flatten(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return `prefix.metric` to value."""
    return {
        f"{prefix}.{name}": value
        for section in scores.values()
        for prefix, metrics in section.items()
        for name, value in metrics.items()
    }
