from pathlib import Path

import pytest
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.calibration import expected_calibration_error
from clipkit.data import Dataset, load_data
from clipkit.errors import DataError
from clipkit.evaluate import ZeroShot, zero_shot
from clipkit.models.dual_encoder import DualEncoder, Similarity
from clipkit.types import Sample
from tests.conftest import square
from tests.evaluate.fixed import Fixed


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
    expected = ZeroShot(data=data)(model)
    # One more row in the batch, and the last digits may differ: on Intel they do.
    assert ZeroShot(data=more)(model) == pytest.approx(expected, rel=1e-6)


def test_too_few_classes_and_foreign_labels(model: DualEncoder, classes: Path) -> None:
    data = load_data(classes)
    one = Dataset("one", [sample for sample in data if sample.label == "red"])
    with pytest.raises(DataError, match="two classes"):
        ZeroShot(data=one)(model)
    with pytest.raises(DataError, match="'black' is not among"):
        ZeroShot(data=Dataset("d", data.samples, ("red", "blue")))(model)


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_confidence_is_that_of_the_classifier(
    model: DualEncoder, classes: Path, similarity: Similarity
) -> None:
    """The same probabilities, and so the same calibration."""
    model.use_similarity(similarity)
    with torch.no_grad():
        model.log_logit_scale.fill_(2.0)
        if model.logit_bias_parameter is not None:
            model.logit_bias_parameter.fill_(-1.0)
    data = load_data(classes)
    details = ZeroShot(data=data, templates="simple").details(model)
    classifier = ZeroShotClassifier(model, list(data.class_names), templates="simple")
    proba = torch.from_numpy(classifier.predict_proba(data))
    torch.testing.assert_close(details.answers.confidence, proba.max(1).values)
    labels = torch.tensor([data.class_names.index(str(sample.label)) for sample in data])
    expected = expected_calibration_error(proba, labels)
    assert details.metrics["ece"] == pytest.approx(expected, abs=1e-6)


def test_prompts_are_scored_as_if_each_set_was_evaluated(
    model: DualEncoder, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and without, against the evaluator with those prompts; nothing is encoded twice."""
    monkeypatch.setattr(zero_shot, "CHUNK", 5)
    data = load_data(classes)
    templates = ["a photo of a {}", "the {} square", "{} dog", "one good picture of {}", "white {}"]
    torch.manual_seed(0)
    texts = [t.replace("{}", n) for n in data.class_names for t in templates]
    images = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)
    prompts = torch.randn(len(texts), 16)
    prompts[:10] += 3 * torch.randn(16)  # two classes whose prompts agree: their sums are long
    prompts = torch.nn.functional.normalize(prompts, dim=1)
    encoder = Fixed(images, prompts, by_text=texts)
    details = ZeroShot(data=data, templates=templates).details(model, encoder)
    assert encoder.calls == ["images of classes", "texts"]
    assert details.metrics == ZeroShot(data=data, templates=templates)(model, encoder)
    assert {score.template for score in details.templates} == set(templates)
    for score in details.templates:
        alone = ZeroShot(data=data, templates=[score.template])(model, encoder)
        others = [template for template in templates if template != score.template]
        rest = ZeroShot(data=data, templates=others)(model, encoder)
        assert score.alone == pytest.approx(alone["top1"])
        assert score.without == pytest.approx(rest["top1"])
        assert score.gain == pytest.approx(details.metrics["top1"] - rest["top1"])
    assert len({score.gain for score in details.templates}) > 1
    only = ZeroShot(data=data, templates=templates[:1]).details(model, encoder).templates
    assert (only[0].without, only[0].gain) == (None, None)


def test_a_random_model_scores_chance_within_its_interval(model: DualEncoder) -> None:
    torch.manual_seed(2)
    names = [f"class {at}" for at in range(10)]
    rows = [Sample(str(at), None, label=names[at % 10]) for at in range(1000)]
    images = torch.nn.functional.normalize(torch.randn(1000, 16), dim=1)
    prompts = torch.nn.functional.normalize(torch.randn(10, 16), dim=1)
    scores = ZeroShot(data=Dataset("d", rows), templates="none")(model, Fixed(images, prompts))
    for name, chance in (("top1", 0.1), ("top5", 0.5), ("mean_class_recall", 0.1)):
        assert scores[f"{name}_low"] <= chance <= scores[f"{name}_high"]
        assert scores[f"{name}_high"] - scores[f"{name}_low"] < 0.08


def test_labels_of_pictures_that_cannot_be_read_are_too_few(model: DualEncoder) -> None:
    rows = [Sample("a", b"", label="cat"), Sample("b", b"", label="dog")]
    rows += [Sample(str(at), square("red")) for at in range(200)]
    with pytest.raises(DataError, match="no image that can be read has a label"):
        ZeroShot(data=Dataset("d", rows))(model)
