"""A classifier that labels what nobody did: fitted and calibrated as far as the data allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.files import is_classifier
from clipkit.classify.images import Images
from clipkit.classify.labels import Labels
from clipkit.classify.other import Other
from clipkit.classify.scorer import Truth
from clipkit.data.dataset import Dataset
from clipkit.errors import ConfigError, DataError
from clipkit.models import DualEncoder


@dataclass(frozen=True, slots=True)
class Sure:
    """A classifier, and what its confidence is.

    Attributes:
        classifier: ready to be asked.
        confidence: how it was calibrated, in words.
        learned_from: labelled data that it was fitted or calibrated on.
    """

    classifier: ZeroShotClassifier
    confidence: str
    learned_from: tuple[Dataset, ...] = ()


def make_classifier(
    model: str | Path | DualEncoder,
    labels: Labels | None,
    templates: str | Sequence[str] | None,
    other: Other,
    fit: Dataset | None,
) -> ZeroShotClassifier:
    """Make the classifier of `label`'s options, or read a saved one, which has its own."""
    if not isinstance(model, DualEncoder) and is_classifier(Path(model)):
        given = {"labels": labels, "templates": templates, "other": other, "fit": fit}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name}: the classifier {model} was saved with its own")
        return ZeroShotClassifier.load(model)
    labels = fit if labels is None else labels
    if labels is None:
        raise ConfigError("labels: give labels, labelled data to fit on, or a saved classifier")
    return ZeroShotClassifier(model, labels, templates=templates or "simple", other=other)


Encode = Callable[[Dataset], tuple[Images, Truth]]
"""Returns the images of labelled data, or their features, and their labels."""


def make_sure(
    classifier: ZeroShotClassifier,
    fit: Dataset | None,
    calibrate: Dataset | None,
    encode: Encode = lambda data: (data, None),
) -> Sure:
    """Fit a classifier and calibrate it, as far as there are labelled images to do so with.

    Args:
        classifier: is changed.
        fit: labelled data to fit it on.
        calibrate: other labelled data; that of `fit`, each image left out in turn, if `None`.
        encode: gives features of data, where they are there already.
    """
    if fit is not None:
        classifier.fit(*encode(fit))
    learned_from = tuple(data for data in (fit, calibrate) if data is not None)
    told = classifier.calibration_
    if calibrate is not None:
        told, by = classifier.calibrate(*encode(calibrate)), f"images of {calibrate.name}"
    elif classifier.few_shot_ is not None and fit is not None:
        if classifier.few_shot_.accuracy < 1:  # without an error any certainty would do
            try:
                told, by = classifier.calibrate(), f"images of {fit.name}, each left out of a fit"
            except DataError:  # no label has two of them
                told = None
    else:
        by = "images, before it was saved"
    if told is None:
        confidence = "not calibrated: the model's own probability"
        if classifier.few_shot_ is not None and classifier.few_shot_.accuracy == 1:
            confidence += ", as no image that was left out was named wrong"
    else:
        errors = f"{100 * told.ece_before:.1f} % before, {100 * told.ece_after:.1f} % after"
        confidence = f"calibrated on {told.images} {by} (calibration error {errors})"
    return Sure(classifier, confidence, learned_from)
