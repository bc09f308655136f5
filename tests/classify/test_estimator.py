"""What scikit-learn does with a classifier, done with this one."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from clipkit.classify import ZeroShotClassifier
from clipkit.encode import encode_images
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder

COLOURS = ["blue", "green", "red"]


@pytest.fixture
def files(photos: Path) -> list[str]:
    return [str(photos / f"{colour}{n}.png") for colour in COLOURS for n in range(3)]


@pytest.fixture
def truth() -> list[str]:
    return [colour for colour in COLOURS for _ in range(3)]


def test_parameters_are_kept_as_they_came(model: DualEncoder) -> None:
    labels, templates = list(COLOURS), ["a {}"]
    made = ZeroShotClassifier(
        model, labels, templates=templates, scores="softmax", other=0.2, adapt="cache", batch_size=4
    )
    params = made.get_params()
    assert params["labels"] is labels
    assert params["templates"] is templates
    assert params["model"] is model
    assert (params["scores"], params["other"]) == ("softmax", 0.2)
    assert (params["adapt"], params["batch_size"]) == ("cache", 4)
    assert set(params) == set(ZeroShotClassifier.parameters)
    again = ZeroShotClassifier(**params)
    assert again.get_params() == params


def test_a_clone_has_the_parameters_and_nothing_that_was_fitted(
    model: DualEncoder, files: list[str], truth: list[str]
) -> None:
    fitted = ZeroShotClassifier(model, COLOURS).fit(files, truth)
    fitted.calibrate(files, truth)
    fresh = clone(fitted)
    assert fresh is not fitted
    assert fresh.model is model  # shared, not copied
    assert fresh.few_shot_ is None
    assert fresh.calibration_ is None
    np.testing.assert_array_equal(
        fresh.decision_function(files), ZeroShotClassifier(model, COLOURS).decision_function(files)
    )
    assert fitted.few_shot_ is not None


def test_a_model_that_is_named_is_loaded_once(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "tiny"
    model.save(str(saved))
    made = ZeroShotClassifier(saved, COLOURS)
    monkeypatch.setattr("clipkit.classify.zero_shot.load", None)
    assert clone(made).set_params(templates="none").get_params()["model"] is saved


def test_a_bad_parameter_changes_nothing(model: DualEncoder) -> None:
    made = ZeroShotClassifier(model, COLOURS)
    with pytest.raises(ConfigError, match="'template' is no parameter; did you mean"):
        made.set_params(template="none")
    assert made.set_params() is made
    assert made.get_params()["templates"] == "simple"


def test_it_is_a_classifier_that_needs_no_fit(model: DualEncoder, files: list[str]) -> None:
    made = ZeroShotClassifier(model, COLOURS)
    assert is_classifier(made)
    check_is_fitted(made)
    assert made.predict(files).shape == (9,)
    assert made.predict(files).dtype.kind == "U"
    assert made.predict_proba(files).shape == (9, 3)
    assert set(made.predict(files)) <= set(made.classes_)


def test_decision_function_of_two_labels_is_one_column(
    model: DualEncoder, files: list[str]
) -> None:
    made = ZeroShotClassifier(model, ["blue", "red"])
    decision = made.decision_function(files)
    assert decision.shape == (9,)
    np.testing.assert_array_equal(made.predict(files) == "red", decision > 0)
    truth = ["blue"] * 4 + ["red"] * 5
    by_decision = get_scorer("roc_auc")(made, files, truth)
    by_hand = np.mean([d > e for d in decision[4:] for e in decision[:4]])
    assert by_decision == pytest.approx(by_hand)


def test_cross_validation_and_pipeline(
    model: DualEncoder, files: list[str], truth: list[str]
) -> None:
    made = ZeroShotClassifier(model, COLOURS, adapt="none")
    folds = StratifiedKFold(3)
    scores = cross_val_score(made, files, truth, cv=folds)
    assert np.mean(scores) == pytest.approx(made.score(files, truth))
    predicted = cross_val_predict(made, files, truth, cv=folds)
    assert predicted.tolist() == made.predict(files).tolist()
    proba = made.predict_proba(files)
    loss = -np.log([row[COLOURS.index(label)] for row, label in zip(proba, truth, strict=True)])
    by_scorer = cross_val_score(made, files, truth, cv=folds, scoring="neg_log_loss")
    assert np.mean(by_scorer) == pytest.approx(-np.mean(loss), rel=1e-5)
    first = FunctionTransformer(lambda names: [Path(name) for name in names])
    pipeline = Pipeline([("paths", first), ("clip", made)])
    assert pipeline.fit(files, truth).score(files, truth) == made.score(files, truth)
    assert clone(pipeline).get_params()["clip__templates"] == "simple"


def test_a_grid_search_over_templates(
    model: DualEncoder, files: list[str], truth: list[str]
) -> None:
    grid: dict[str, list[object]] = {
        "templates": ["none", "plain", ["a {} square", "one {}"]],
        "adapt": ["none", "cache"],
    }
    folds = StratifiedKFold(3)
    search = GridSearchCV(ZeroShotClassifier(model, COLOURS), grid, cv=folds)
    search.fit(files, truth)
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        if params["adapt"] == "none":
            alone = ZeroShotClassifier(model, COLOURS, templates=params["templates"])
            assert score == pytest.approx(alone.score(files, truth))
    assert search.best_estimator_.predict(files).shape == (9,)


def test_features_in_place_of_images(
    model: DualEncoder, files: list[str], truth: list[str]
) -> None:
    features, _, _ = encode_images(model, map(Path, files))
    made = ZeroShotClassifier(model, COLOURS, adapt="none")
    scores = cross_val_score(made, features.numpy(), truth, cv=StratifiedKFold(3))
    assert np.mean(scores) == pytest.approx(made.score(files, truth))


def test_a_pickle_is_the_same(model: DualEncoder, files: list[str], truth: list[str]) -> None:
    made = ZeroShotClassifier(model, COLOURS).fit(files, truth)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.decision_function(files), made.decision_function(files))
