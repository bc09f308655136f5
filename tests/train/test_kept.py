from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.train.checkpoint import Checkpoints, CheckpointSettings, TrainState
from clipkit.train.kept import Kept, Selection
from clipkit.train.scores import Scores

Make = Callable[..., DualEncoder]
BEST = Selection("mine.recall", patience=2)


def scores(recall: float) -> Scores:
    return {"data": {"mine": {"recall": recall}}}


def begin(
    model: DualEncoder, folder: Path, selection: Selection, state: TrainState | None = None
) -> Kept:
    set_trainable(model, "projections")
    if state is None:
        state = TrainState("data", "model", before=scores(0.5))
    return Kept(model, state, selection, Checkpoints(folder, CheckpointSettings()))


def score_at(kept: Kept, model: DualEncoder, step: int, recall: float) -> None:
    """Move the model to where its scale tells the step, and offer it."""
    kept.state.step = step
    with torch.no_grad():
        model.log_logit_scale.fill_(step / 100)
    kept.offer(model, scores(recall))


def step_of(model: DualEncoder) -> int:
    return round(100 * model.log_logit_scale.item())


def test_the_last_step_is_kept_where_nothing_chooses(model: DualEncoder, tmp_path: Path) -> None:
    kept = begin(model, tmp_path, Selection())
    for step, recall in ((5, 0.9), (10, 0.1)):
        score_at(kept, model, step, recall)
    kept.restore(model)
    assert step_of(model) == 10
    assert kept.state.kept_step == 10
    assert kept.state.kept_value is None
    assert not list(tmp_path.iterdir())


def test_the_best_step_is_kept_and_the_first_of_equals(model: DualEncoder, tmp_path: Path) -> None:
    kept = begin(model, tmp_path, Selection("mine.recall"))
    for step, recall in ((5, 0.6), (10, 0.8), (15, 0.8), (20, 0.7)):
        score_at(kept, model, step, recall)
    assert (kept.state.kept_step, kept.state.kept_value) == (10, 0.8)
    kept.restore(model)
    assert step_of(model) == 10


def test_the_start_is_among_them(model: DualEncoder, tmp_path: Path) -> None:
    before = model.log_logit_scale.item()
    kept = begin(model, tmp_path, Selection("mine.recall"))
    score_at(kept, model, 5, 0.4)
    kept.restore(model)
    assert model.log_logit_scale.item() == before
    assert kept.state.kept_step == 0


def test_what_is_kept_does_not_change_with_the_model(model: DualEncoder, tmp_path: Path) -> None:
    kept = begin(model, tmp_path, Selection("mine.recall"))
    score_at(kept, model, 5, 0.9)
    with torch.no_grad():
        for parameter in model.image_projection.parameters():
            parameter.zero_()
    kept.restore(model)
    assert all(p.abs().sum() > 0 for p in model.image_projection.parameters() if p.ndim > 1)


def test_patience_counts_from_the_last_better_value(model: DualEncoder, tmp_path: Path) -> None:
    kept = begin(model, tmp_path, BEST)
    told = []
    for step, recall in ((1, 0.4), (2, 0.6), (3, 0.6), (4, 0.61), (5, 0.2), (6, 0.3)):
        score_at(kept, model, step, recall)
        told.append((kept.state.stale, kept.stops))
    assert told == [(1, False), (0, False), (1, False), (0, False), (1, False), (2, True)]
    patient = begin(model, tmp_path, Selection("mine.recall"))
    for step in range(1, 50):
        score_at(patient, model, step, 0.1)
    assert not patient.stops


def test_scores_without_the_metric_decide_nothing(model: DualEncoder, tmp_path: Path) -> None:
    """Evaluators may run at different steps; only the one that chooses counts."""
    kept = begin(model, tmp_path, BEST)
    kept.state.step = 3
    kept.offer(model, {"general": {"other": {"recall": 1.0}}})
    assert (kept.state.kept_step, kept.state.stale) == (0, 0)
    with pytest.raises(ConfigError, match=r"no metric 'mine.recall'"):
        kept.offer(model, {"data": {"mine": {"recal": 1.0}}})


def test_a_stopped_run_keeps_what_it_had(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    kept = begin(model, tmp_path, BEST)
    for step, recall in ((1, 0.7), (2, 0.2)):
        score_at(kept, model, step, recall)
    again = make_model(seed=5)
    resumed = begin(again, tmp_path, BEST, kept.state)
    assert (kept.state.kept_step, kept.state.kept_value, kept.state.stale) == (1, 0.7, 1)
    score_at(resumed, again, 3, 0.6)
    assert resumed.stops
    resumed.restore(again)
    assert step_of(again) == 1
    kept.restore(model)
    for name, value in model.image_projection.state_dict().items():
        assert torch.equal(again.image_projection.state_dict()[name], value)


def test_settings_are_checked_against_each_other() -> None:
    with pytest.raises(ConfigError, match="patience: -1 is less than 0"):
        Selection("mine.recall", patience=-1)
    with pytest.raises(ConfigError, match="patience: needs a metric to wait for"):
        Selection(patience=2)
