from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.other import resolve_other
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder

LABELS = ["red", "green", "blue"]


@pytest.mark.parametrize("other", [0, 1, 1.5, -0.1, True, "", [], ["a", " "]])
def test_what_stands_for_nothing_is_refused(other: object) -> None:
    with pytest.raises(ConfigError, match=r"^other: "):
        resolve_other(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_threshold_may_be_a_number_of_numpy(kind: type[np.floating[Any]]) -> None:
    assert resolve_other(kind(0.25)) == ((), 0.25)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        resolve_other(kind(1))


def test_below_a_threshold_no_label_is_answered(model: DualEncoder, photos: Path) -> None:
    plain = ZeroShotClassifier(model, LABELS)
    best = plain.predict_proba(photos).max(1)
    cut = float(np.median(best))
    classifier = ZeroShotClassifier(model, LABELS, other=cut)
    expected = [
        label if share >= cut else "other"
        for label, share in zip(plain.predict(photos), best, strict=True)
    ]
    assert classifier.predict(photos).tolist() == expected
    assert 0 < expected.count("other") < len(expected)
    np.testing.assert_array_equal(classifier.predict_proba(photos), plain.predict_proba(photos))
    assert classifier.score(photos, expected) == 1.0


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_prompts_of_anything_else_compete(
    make_model: Callable[..., DualEncoder], photos: Path, similarity: str
) -> None:
    model = make_model()
    model.use_similarity(similarity)  # type: ignore[arg-type]
    texts = ["a photo", "the picture in white"]
    classifier = ZeroShotClassifier(model, LABELS, templates="plain", other=texts)
    assert classifier.classes_.tolist() == [*LABELS, "other"]
    images = sorted(photos.glob("*.png"))
    features, _, _ = encode_images(model, images)
    prompts = [f"a photo of a {label}." for label in LABELS]
    with torch.no_grad():
        logits = model.logit_scale * features @ encode_texts(model, [*prompts, *texts]).T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    if similarity == "softmax":
        each = logits.softmax(1)
        expected = torch.cat([each[:, :3], each[:, 3:].sum(1, keepdim=True)], dim=1)
    else:
        each = logits.sigmoid()
        expected = torch.cat([each[:, :3], each[:, 3:].amax(1, keepdim=True)], dim=1)
    proba = classifier.predict_proba(images)
    np.testing.assert_allclose(proba, expected.numpy(), rtol=1e-3, atol=1e-5)
    answers = classifier.predict(images).tolist()
    assert answers == [classifier.classes_[at] for at in proba.argmax(1)]


def test_one_label_needs_something_else(model: DualEncoder, photos: Path) -> None:
    with pytest.raises(ConfigError, match="one label only, 'red'; give two or more, or say by"):
        ZeroShotClassifier(model, ["red"])
    alone = ZeroShotClassifier(model, ["red"], other="a photo of a blue square")
    assert set(alone.predict(photos)) <= {"red", "other"}
    with pytest.raises(ConfigError, match="one label alone is always 1; give a text"):
        ZeroShotClassifier(model, ["red"], other=0.5)
    assert ZeroShotClassifier(model, ["red"], scores="sigmoid", other=0.5).threshold_ == 0.5
    with pytest.raises(ConfigError, match="'other' is what `other` answers"):
        ZeroShotClassifier(model, ["red", "other"], other=0.5)
    with pytest.raises(ConfigError, match="'other' is no class"):
        ZeroShotClassifier(model, LABELS).score(photos, ["other"] * 18)
