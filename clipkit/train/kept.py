"""Which weights a run keeps: the last ones, or the best by a metric."""

from dataclasses import dataclass
from math import isnan

from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.checkpoint import Checkpoints, TrainState, changing_state
from clipkit.train.scores import Scores, pick


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run is judged by.

    Attributes:
        best: `prefix.metric` by which the model is chosen among the steps that were scored, the
            start among them; the last step's when `None`.
        patience: evaluations without a better value after which the run ends; 0 for no such end.
    """

    best: str | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        """Check the two against each other."""
        if self.patience < 0:
            raise ConfigError(f"patience: {self.patience} is less than 0")
        if self.patience and self.best is None:
            raise ConfigError("patience: needs a metric to wait for: write best: PREFIX.METRIC")


class Kept:
    """The weights that will be saved.

    Args:
        model: whose weights.
        state: where the run is; notes what is kept.
        selection: what the run is judged by.
        checkpoints: where kept weights are, should the run be stopped.
    """

    def __init__(
        self,
        model: DualEncoder,
        state: TrainState,
        selection: Selection,
        checkpoints: Checkpoints,
    ) -> None:
        """Keep the start, or what was kept when the run was stopped."""
        self.state = state
        self.selection = selection
        self.checkpoints = checkpoints
        self._weights: dict[str, Tensor] | None = None
        if selection.best is None:
            return
        if state.kept_value is not None:
            self._weights = checkpoints.load_best(state.kept_step)
            return
        state.kept_value = pick(state.before, selection.best)
        self._keep(model)

    def judged_by(self, scores: Scores) -> bool:
        """Say whether the metric that chooses is among scores, of which each step has its own."""
        prefix = (self.selection.best or "").partition(".")[0]
        return any(prefix in section for section in scores.values())

    @property
    def stops(self) -> bool:
        """Whether patience has come to its end."""
        return 0 < self.selection.patience <= self.state.stale

    def offer(self, model: DualEncoder, scores: Scores) -> None:
        """Take these weights where they are better."""
        if self.selection.best is None or not self.judged_by(scores):
            return
        value = pick(scores, self.selection.best)
        kept = self.state.kept_value
        if kept is not None and not (value > kept or (isnan(kept) and not isnan(value))):
            self.state.stale += 1
            return
        self.state.kept_step, self.state.kept_value = self.state.step, value
        self.state.stale = 0
        self._keep(model)

    def restore(self, model: DualEncoder) -> None:
        """Put the kept weights into the model."""
        if self._weights is None:
            self.state.kept_step = self.state.step
        else:
            model.load_state_dict(self._weights, strict=False)

    def _keep(self, model: DualEncoder) -> None:
        """Copy what changes in training."""
        self._weights = {k: v.detach().clone() for k, v in changing_state(model).items()}
        self.checkpoints.save_best(self.state.kept_step, self._weights)
