from pathlib import Path

import numpy as np
import pytest
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder

COLOURS = ["red", "green", "blue"]


def test_sigmoid_scores_of_a_softmax_model_need_a_bias(model: DualEncoder, photos: Path) -> None:
    classifier = ZeroShotClassifier(model, COLOURS, scores="sigmoid")
    assert len(classifier.predict(photos)) == 18
    with pytest.raises(ConfigError, match=r"has no bias .* call calibrate first"):
        classifier.predict_proba(photos)
    files = [photos / f"{colour}{n}.png" for colour in COLOURS for n in range(3)]
    found = classifier.calibrate(files, [colour for colour in COLOURS for _ in range(3)])
    logits = torch.from_numpy(ZeroShotClassifier(model, COLOURS).decision_function(files))
    expected = (logits / found.temperature.value + found.temperature.shift).sigmoid()
    np.testing.assert_allclose(classifier.predict_proba(files), expected.numpy(), rtol=1e-5)


def test_a_model_of_one_kind_may_be_scored_as_the_other(model: DualEncoder, photos: Path) -> None:
    model.use_similarity("sigmoid")
    softmax = ZeroShotClassifier(model, COLOURS, scores="softmax").predict_proba(photos)
    np.testing.assert_allclose(softmax.sum(1), 1, rtol=1e-5)
    alone = ZeroShotClassifier(model, COLOURS).predict_proba(photos)
    assert (alone.sum(1) < 0.5).all()
    np.testing.assert_array_equal(alone.argmax(1), softmax.argmax(1))


def test_calibration_keeps_the_answers_and_finds_a_threshold(
    model: DualEncoder, photos: Path
) -> None:
    classifier = ZeroShotClassifier(model, COLOURS, other=0.01)
    files = sorted(photos.glob("*.png"))
    truth = [f.stem[:-1] if f.stem[:-1] in COLOURS else "other" for f in files]
    before = ZeroShotClassifier(model, COLOURS).predict(files)
    found = classifier.calibrate(files, truth)
    assert found.images == 9
    assert found.threshold is not None
    assert classifier.threshold_ == found.threshold != 0.01
    proba = classifier.predict_proba(files)
    assert [COLOURS[at] for at in proba.argmax(1)] == before.tolist()
    answers = classifier.predict(files)
    assert (answers == "other").tolist() == (proba.max(1) < found.threshold).tolist()
    known = np.array(truth) != "other"
    told = np.mean(answers[~known] == "other") + np.mean(answers[known] != "other")
    assert told >= 1
    assert f"other={round(found.threshold, 4)}" in repr(classifier)
    with pytest.raises(ConfigError, match="'other' is no class"):
        ZeroShotClassifier(model, COLOURS).calibrate(files, truth)
