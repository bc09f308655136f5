from pathlib import Path

import pytest

from clipkit.classify import ZeroShotClassifier
from clipkit.data import Dataset, load_data
from clipkit.errors import ConfigError
from clipkit.labelling.sure import make_classifier, make_sure
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import square

COLOURS = ["red", "green", "blue"]


def test_labels_are_those_of_the_data_to_fit_on(model: DualEncoder, classes: Path) -> None:
    fit = load_data(classes)
    assert make_classifier(model, None, None, None, fit).classes_.tolist() == list(fit.class_names)
    made = make_classifier(model, COLOURS, ["a {}"], 0.3, fit)
    assert made.classes_.tolist() == COLOURS
    assert made.get_params()["templates"] == ["a {}"]
    assert made.threshold_ == 0.3
    with pytest.raises(ConfigError, match="labels: give labels, labelled data to fit on"):
        make_classifier(model, None, None, None, None)


def test_a_saved_classifier_has_its_own(model: DualEncoder, classes: Path, tmp_path: Path) -> None:
    saved = ZeroShotClassifier(model, COLOURS)
    saved.save(tmp_path / "saved")
    made = make_classifier(tmp_path / "saved", None, None, None, None)
    assert made.classes_.tolist() == COLOURS
    for name, given in (
        ("labels", (COLOURS, None, None, None)),
        ("templates", (None, "plain", None, None)),
        ("other", (None, None, 0.3, None)),
        ("fit", (None, None, None, load_data(classes))),
    ):
        with pytest.raises(ConfigError, match=f"{name}: the classifier .* was saved with its own"):
            make_classifier(tmp_path / "saved", *given)


def test_what_the_confidence_is(model: DualEncoder, classes: Path, tmp_path: Path) -> None:
    easy = load_data(classes)
    square("red", 77).save(classes / "blue" / "7.png")  # an error to calibrate by
    square("blue", 78).save(classes / "red" / "8.png")
    few = load_data(classes)
    names = list(few.class_names)

    def sure(fit: Dataset | None, calibrate: Dataset | None) -> tuple[ZeroShotClassifier, str]:
        made = make_sure(ZeroShotClassifier(model, names, adapt="cache"), fit, calibrate)
        assert made.learned_from == tuple(x for x in (fit, calibrate) if x is not None)
        return made.classifier, made.confidence

    plain, told = sure(None, None)
    assert told == "not calibrated: the model's own probability"
    assert plain.calibration_ is None
    by_data, told = sure(None, few)
    assert told.startswith("calibrated on 14 images of classes (calibration error")
    assert by_data.calibration_ == ZeroShotClassifier(model, names).calibrate(few)
    fitted, told = sure(few, None)
    assert told.startswith("calibrated on 14 images of classes, each left out of a fit (")
    assert (
        fitted.calibration_ == ZeroShotClassifier(model, names, adapt="cache").fit(few).calibrate()
    )
    fitted.save(tmp_path / "saved")
    loaded = make_sure(ZeroShotClassifier.load(tmp_path / "saved"), None, None)
    assert loaded.confidence.startswith("calibrated on 14 images, before it was saved (")
    classifier, told = sure(easy, None)
    assert told.endswith(", as no image that was left out was named wrong")
    assert classifier.calibration_ is None
