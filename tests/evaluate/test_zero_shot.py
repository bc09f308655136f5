from pathlib import Path

import pytest
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.data import Dataset, load_data
from clipkit.errors import DataError
from clipkit.evaluate import ZeroShot
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample


def test_it_agrees_with_the_classifier(model: DualEncoder, classes: Path) -> None:
    data = load_data(classes)
    scores = ZeroShot(data=data, templates="plain")(model)
    classifier = ZeroShotClassifier(model, list(data.class_names), templates="plain")
    right = classifier.score(data, [str(sample.label) for sample in data])
    assert scores["top1"] == pytest.approx(right)
    assert scores["classes"] == 6
    assert scores["top5"] >= scores["top1"]


def test_rows_without_a_label_do_not_count(model: DualEncoder, classes: Path) -> None:
    data = load_data(classes)
    more = Dataset("d", [*data, Sample("x", data[0].image)], data.class_names)
    assert ZeroShot(data=more)(model) == ZeroShot(data=data)(model)


def test_too_few_classes_and_foreign_labels(model: DualEncoder, classes: Path) -> None:
    data = load_data(classes)
    one = Dataset("one", [sample for sample in data if sample.label == "red"])
    with pytest.raises(DataError, match="two classes"):
        ZeroShot(data=one)(model)
    with pytest.raises(DataError, match="'black' is not among"):
        ZeroShot(data=Dataset("d", data.samples, ("red", "blue")))(model)
    assert torch.get_num_threads() >= 1
