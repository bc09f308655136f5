import pytest

from clipkit.errors import ConfigError
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.scores import Scoring, flatten, pick, score


class Mode:
    """An evaluator that tells whether the model is in training mode."""

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        return {"training": float(model.training)}


def test_evaluators_see_a_model_in_evaluation_mode(model: DualEncoder) -> None:
    model.train()
    scorings = [Scoring("data", "mine", Mode()), Scoring("general", "photos", Mode(), 5)]
    scores = score(model, scorings, DirectEncoder())
    assert scores == {"data": {"mine": {"training": 0.0}}, "general": {"photos": {"training": 0.0}}}
    assert model.training
    assert flatten(scores) == {"mine.training": 0.0, "photos.training": 0.0}


def test_pick_suggests() -> None:
    scores = {"data": {"mine": {"top1": 0.25}}}
    assert pick(scores, "mine.top1") == 0.25
    with pytest.raises(ConfigError, match=r"did you mean 'mine\.top1'"):
        pick(scores, "mine.top")
