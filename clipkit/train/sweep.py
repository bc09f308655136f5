"""What each model between two gains and loses, and which of them to take."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.errors import ConfigError, did_you_mean
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.structure import TOWERS
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.interpolate import (
    check_alike,
    check_alpha,
    fill,
    same_weights,
    without_adapters,
)
from clipkit.train.scores import Scores, Scoring, flatten, score
from clipkit.types import Progress

PRIMARY = ("mean_recall", "top1")
"""The metric that stands for an evaluator: the first of these that it has."""

ENOUGH = 0.9
"""Share of the gain that a recommended model keeps at least."""

NOTHING = 1e-9
"""Changes up to this are rounding."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model on the way.

    Attributes:
        alpha: share of the way from base to tuned.
        scores: all its metrics.
        data: mean of the data's chosen metrics, in [0, 1].
        general: likewise of the general ones.
    """

    alpha: float
    scores: Scores
    data: float
    general: float


@dataclass(frozen=True, slots=True)
class TradeOff:
    """The way from base to tuned.

    Attributes:
        points: by ascending alpha; the first is base, the last is tuned.
        metrics: by section, the metrics whose mean is compared, as `prefix.metric`.
    """

    points: list[Point]
    metrics: dict[str, list[str]]

    def gain(self, point: Point) -> float:
        """Return how much better than base a model is on the data."""
        return point.data - self.points[0].data

    def loss(self, point: Point) -> float:
        """Return how much worse than base a model is on what must not be forgotten."""
        return self.points[0].general - point.general

    def gain_kept(self, point: Point) -> float | None:
        """Return the share of the tuned model's gain; `None` where it gained nothing."""
        whole = self.gain(self.points[-1])
        return self.gain(point) / whole if whole > NOTHING else None

    def loss_suffered(self, point: Point) -> float | None:
        """Return the share of the tuned model's loss; `None` where it lost nothing."""
        whole = self.loss(self.points[-1])
        return self.loss(point) / whole if whole > NOTHING else None

    @property
    def recommended(self) -> Point | None:
        """The model that loses least of those that keep `ENOUGH` of the gain.

        Of several that lose as much, the one that gains most. The tuned model where that lost
        nothing, none where it gained nothing.
        """
        tuned = self.points[-1]
        if self.gain_kept(tuned) is None:
            return None
        if self.loss_suffered(tuned) is None:
            return tuned
        enough = [p for p in self.points if (self.gain_kept(p) or 0.0) >= ENOUGH - NOTHING]
        return min(enough, key=lambda p: (round(self.loss(p), 9), -self.gain(p)))

    def words(self) -> str:
        """Say which alpha is recommended, and why."""
        base, tuned, best = self.points[0], self.points[-1], self.recommended
        if best is None:
            return (
                f"The tuned model gained nothing on the data ({100 * base.data:.1f} % before,"
                f" {100 * tuned.data:.1f} % after): no alpha is recommended."
            )
        if self.loss_suffered(tuned) is None:
            return (
                f"The tuned model lost nothing in general ({100 * base.general:.1f} % before,"
                f" {100 * tuned.general:.1f} % after): alpha 1, the tuned model itself, is"
                " recommended."
            )
        if best is tuned:
            return (
                "Alpha 1, the tuned model itself, is recommended: no other that was tried keeps"
                f" {100 * ENOUGH:.0f} % of its gain ({_points(self.gain(best))} points) for less"
                f" than its loss ({_points(-self.loss(best))} points)."
            )
        gain_kept, loss_suffered = self.gain_kept(best) or 0.0, self.loss_suffered(best) or 0.0
        loss = (
            f"for {100 * loss_suffered:.0f} % of the loss ({_points(-self.loss(best))} of"
            if loss_suffered > NOTHING
            else f"and loses nothing ({_points(-self.loss(best))} in place of"
        )
        return (
            f"Alpha {best.alpha:g} is recommended: it keeps {100 * gain_kept:.0f} % of the gain"
            f" ({_points(self.gain(best))} of {_points(self.gain(tuned))} points) {loss}"
            f" {_points(-self.loss(tuned))} points)."
        )

    def summary(self) -> dict[str, Any]:
        """Return all of it as plain numbers and words."""
        best = self.recommended
        return {
            "metrics": self.metrics,
            "recommended": None if best is None else best.alpha,
            "words": self.words(),
            "points": [
                {
                    "alpha": point.alpha,
                    "data": point.data,
                    "general": point.general,
                    "gain_kept": self.gain_kept(point),
                    "loss_suffered": self.loss_suffered(point),
                    "scores": point.scores,
                }
                for point in self.points
            ],
        }


def _points(share: float) -> str:
    """Write a change in points of a percentage, with its sign."""
    return f"{100 * share:+.1f}"


class SweepEncoder:
    """Encodes with towers that differ between the two models anew, and with others only once.

    Args:
        cache: keeps the features of frozen towers.
    """

    def __init__(self, cache: FeatureCache) -> None:
        """Begin with nothing encoded."""
        self.cache = cache
        self._direct = self._anew()

    def images(
        self, model: DualEncoder, data: Dataset
    ) -> tuple[Float[Tensor, "images dim"], list[int]]:
        """Return image features in the joint space, and the rows they belong to."""
        if frozen(model.image_tower):
            return self.cache.images(model, data)
        try:
            return self._direct.images(model, data)
        finally:
            self.cache.rejects.update(self._direct.rejects)

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return text features in the joint space."""
        return self.cache.texts(model, texts)

    def forget(self) -> None:
        """Drop the features of a model whose weights change now."""
        self._direct = self._anew()

    def _anew(self) -> DirectEncoder:
        cache = self.cache
        return DirectEncoder(max_rejected=cache.max_rejected, keep=True, report=cache.report)


def sweep(
    base: DualEncoder,
    tuned: DualEncoder,
    alphas: Sequence[float],
    scorings: Sequence[Scoring],
    *,
    cache: FeatureCache,
    metric: str | None = None,
    general_metric: str | None = None,
    on_progress: Progress | None = None,
) -> TradeOff:
    """Score the models between two; a tower that is equal in both is run once, not once an alpha.

    Args:
        base: the model before fine-tuning.
        tuned: the model after. Beyond the two, one copy of the weights is made, and one more for
            each of them that has LoRA adapters.
        alphas: shares of the way from base to tuned; 0 and 1 are always scored.
        scorings: what is scored, at least one in each section, "data" and "general".
        cache: keeps the features of towers that are equal in both.
        metric: `prefix.metric`, or a metric of all evaluators that have it, in which the gain is
            counted; when `None`, `mean_recall` of retrieval and `top1` of zero-shot.
        general_metric: likewise the loss.
        on_progress: told how many alphas are done.

    Raises:
        ConfigError: when an alpha is not in [0, 1], a section is empty, or there is no such metric.
        ModelError: when the two models are not built, prepared or used alike.
    """
    for alpha in alphas:
        check_alpha(alpha)
    base, tuned = without_adapters(base), without_adapters(tuned)
    check_alike(base, tuned)
    mixed = copy.deepcopy(tuned).eval()
    for part in TOWERS:  # what is frozen, the cache keeps
        mixed.get_submodule(part).requires_grad_(not same_weights(base, tuned, part))
    encoder = SweepEncoder(cache)
    wanted = {"data": metric, "general": general_metric}
    chosen: dict[str, list[str]] = {}
    points: list[Point] = []
    shares = sorted({0.0, 1.0, *alphas})
    for alpha in shares:
        fill(mixed, base, tuned, alpha)
        encoder.forget()
        scores = score(mixed, scorings, encoder)
        chosen = chosen or {name: _choose(scores, name, wanted[name]) for name in wanted}
        data, general = (_mean(scores, name, chosen[name]) for name in wanted)
        points.append(Point(alpha, scores, data, general))
        if on_progress is not None:
            on_progress(len(points), len(shares))
    return TradeOff(points, chosen)


def _choose(scores: Scores, section: str, metric: str | None) -> list[str]:
    """Return the metrics of a section that are compared, as `prefix.metric`."""
    there = scores.get(section)
    if not there:
        raise ConfigError(f"a sweep compares gain and loss: nothing is scored as {section!r}")
    if metric is not None:
        names = [f"{prefix}.{name}" for prefix, values in there.items() for name in values]
        found = [name for name in names if metric in (name, name.rpartition(".")[2])]
        if not found:
            known = {name.rpartition(".")[2] for name in names}
            raise ConfigError(f"no metric {metric!r} of {section}{did_you_mean(metric, known)}")
        return found
    chosen = []
    for prefix, values in there.items():
        primary = next((name for name in PRIMARY if name in values), None)
        if primary is None:
            raise ConfigError(f"{prefix} has neither {' nor '.join(PRIMARY)}: name a metric")
        chosen.append(f"{prefix}.{primary}")
    return chosen


def _mean(scores: Scores, section: str, metrics: Sequence[str]) -> float:
    """Return the mean of metrics of a section."""
    values = flatten({section: scores[section]})
    return sum(values[name] for name in metrics) / len(metrics)
