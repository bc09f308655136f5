from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.head import class_features
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, ModelError
from clipkit.models.dual_encoder import DualEncoder

LABELS = ["red", "green", "blue"]


def slow_logits(model: DualEncoder, images: list[Path], templates: list[str]) -> np.ndarray:
    """Section 3.1.4 of the CLIP paper, one label at a time."""
    columns = []
    features, _, _ = encode_images(model, images)
    for label in LABELS:
        prompts = encode_texts(model, [template.replace("{}", label) for template in templates])
        total = torch.zeros(model.dim)
        for prompt in prompts:
            total = total + prompt
        columns.append(features @ (total / total.norm()))
    scale = float(model.logit_scale.detach())
    return scale * torch.stack(columns, 1).numpy()


def test_logits_equal_the_slow_loop(model: DualEncoder, photos: Path) -> None:
    templates = ["a photo of a {}", "the {}", "one {} square in the picture"]
    classifier = ZeroShotClassifier(model, LABELS, templates=templates)
    images = sorted(photos.glob("*.png"))[:5]
    expected = slow_logits(model, images, templates)
    np.testing.assert_allclose(classifier.decision_function(images), expected, rtol=1e-3, atol=1e-3)
    exp = np.exp(expected - expected.max(1, keepdims=True))
    np.testing.assert_allclose(
        classifier.predict_proba(images), exp / exp.sum(1, keepdims=True), rtol=1e-3, atol=1e-4
    )
    assert classifier.predict(images).tolist() == [LABELS[i] for i in expected.argmax(1)]


def test_synonyms_share_a_label(model: DualEncoder) -> None:
    encode = lambda texts: encode_texts(model, texts)  # noqa: E731
    both = class_features([("cat", "dog")], ["a {}"], encode)
    single = encode_texts(model, ["a cat", "a dog"])
    mean = single.mean(0)
    torch.testing.assert_close(both[0], mean / mean.norm())


def test_sigmoid_models_judge_each_label_by_itself(
    make_model: Callable[..., DualEncoder], photos: Path
) -> None:
    model = make_model()
    model.similarity = "sigmoid"
    model.logit_bias_parameter = torch.nn.Parameter(torch.tensor(-2.0))
    classifier = ZeroShotClassifier(model, LABELS)
    logits = classifier.decision_function(photos)
    np.testing.assert_allclose(
        classifier.predict_proba(photos), 1 / (1 + np.exp(-logits)), rtol=1e-4
    )
    assert logits.max() < float(model.logit_scale.detach()) - 1.9


def test_an_image_that_cannot_be_read_keeps_its_place(model: DualEncoder, corrupt: Path) -> None:
    classifier = ZeroShotClassifier(model, LABELS)
    images = [
        corrupt / "red0.png",
        corrupt / "red1.png",
        corrupt / "gone.png",
        corrupt / "red2.png",
    ]
    predicted = classifier.predict(images)
    assert [label is None for label in predicted] == [False, True, True, False]
    assert [(Path(r.id).name, r.reason) for r in classifier.rejects_] == [
        ("red1.png", "cannot identify image file"),
        ("gone.png", "file not found"),
    ]
    assert np.isnan(classifier.predict_proba(images)[1]).all()
    classifier.predict(images[:1])
    assert not classifier.rejects_


def test_labels_are_encoded_once(
    model: DualEncoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = ZeroShotClassifier(model, LABELS)
    first = classifier.predict(photos).tolist()
    monkeypatch.setattr(model, "encode_text", None)
    assert classifier.predict(photos).tolist() == first


def test_scikit_learn_manners(model: DualEncoder, classes: Path) -> None:
    classifier = ZeroShotClassifier(model, LABELS, templates="plain")
    assert classifier.get_params()["labels"] is LABELS
    classifier.set_params(templates="none")
    assert "templates=['{}']" in repr(classifier)
    assert "labels=['red', 'green', 'blue']" in repr(classifier)
    with pytest.raises(ConfigError, match="did you mean 'templates'"):
        classifier.set_params(template="none")
    files = [classes / "red" / "0.png", classes / "blue" / "0.png"]
    truth = [label or "" for label in classifier.predict(files)]
    assert classifier.score(files, truth) == 1.0
    with pytest.raises(ConfigError, match="'grean' is no class; did you mean 'green'"):
        classifier.score(files, ["grean", "red"])
    with pytest.raises(ConfigError, match="features come without; give one for each row"):
        classifier.score(np.ones((2, model.dim), np.float32))
    with pytest.raises(ConfigError, match="1 labels for 2 images"):
        classifier.score(files, ["red"])
    copied = clone(classifier)
    assert copied is not classifier
    assert copied.predict(files).tolist() == truth


def test_what_fails_leaves_all_as_it_was(model: DualEncoder, classes: Path) -> None:
    files = [classes / "red" / "0.png", classes / "blue" / "0.png"]
    classifier = ZeroShotClassifier(model, LABELS, templates="plain")
    classifier.fit(files, ["blue", "green"]).calibrate(files, ["red", "green"])
    before = classifier.predict_proba(files)
    for change in (
        lambda: classifier.set_params(templates="nono"),
        lambda: classifier.fit(files, ["rad", "blue"]),
        lambda: classifier.calibrate(files, ["red"]),
    ):
        with pytest.raises(ConfigError):
            change()
        assert classifier.get_params()["templates"] == "plain"
        np.testing.assert_array_equal(classifier.predict_proba(files), before)


def test_no_images_and_no_model(model: DualEncoder) -> None:
    assert ZeroShotClassifier(model, LABELS).predict([]).tolist() == []
    assert ZeroShotClassifier(model, LABELS).predict_proba([]).shape == (0, 3)
    with pytest.raises(ModelError, match="did you mean 'starter'"):
        ZeroShotClassifier("startr", LABELS)
