from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipkit.classify import ZeroShotClassifier, pseudo_labels
from clipkit.classify.pseudo_labels import NONE_OF_THESE, Guesses, choose, guess, guess_features
from clipkit.data import load_data
from clipkit.encode import encode_images
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder

COLOURS = ["red", "green", "blue"]


def made(seed: int, images: int = 60, classes: int = 4) -> Guesses:
    """Draw guesses, with ties, some that are none of the labels and some that cannot be read."""
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(1, 20, images) / 20).astype(np.float32)
    unread = {int(at): "broken" for at in rng.choice(images, 5, replace=False)}
    confidence[list(unread)] = np.nan
    return Guesses(
        tuple(map(str, range(classes))),
        rng.integers(0, classes, images),
        confidence,
        rng.integers(0, classes, images),
        np.zeros(images, np.float32),
        rng.random(images) < 0.1,
        unread,
    )


@pytest.mark.parametrize("least", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("top", [None, 1, 3, 100])
@pytest.mark.parametrize("seed", range(3))
def test_the_rule_equals_a_slow_reading_of_it(
    seed: int, least: float | None, top: int | None
) -> None:
    told = made(seed)
    found = choose(told, min_confidence=least, top_per_class=top)
    for at in range(len(told.first)):
        if at in told.unread:
            expected = "broken"
        elif told.other[at]:
            expected = NONE_OF_THESE
        elif least is not None and told.confidence[at] < least:
            expected = f"confidence below {least:g}"
        else:
            better = [
                one
                for one in range(len(told.first))
                if one not in told.unread
                and not told.other[one]
                and told.first[one] == told.first[at]
                and (least is None or told.confidence[one] >= least)
                and (-told.confidence[one], one) < (-told.confidence[at], at)
            ]
            out = top is not None and len(better) >= top
            expected = f"not among the surest {top} of its label" if out else ""
        assert found[at] == expected


def test_rules_that_cannot_be_followed() -> None:
    for rule, words in (
        ({"min_confidence": 1.2}, "from 0 to 1, not 1.2"),
        ({"top_per_class": 0}, "1 or more, not 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            choose(made(0), **rule)


@pytest.mark.parametrize("other", [None, 0.35, "a good dog"])
@pytest.mark.parametrize("chunk", [4, 8, 4096])
def test_guesses_are_what_the_classifier_says(
    model: DualEncoder,
    corrupt: Path,
    other: str | float | None,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pseudo_labels, "CHUNK", chunk)
    classifier = ZeroShotClassifier(model, COLOURS, other=other, batch_size=4)
    data = load_data(corrupt)
    seen: list[tuple[int, int | None]] = []
    told = guess(
        classifier, iter(data), total=18, progress=lambda done, of: seen.append((done, of))
    )
    proba, predicted = classifier.predict_proba(data), classifier.predict(data)
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    broken = [sample.id for sample in data].index("red1.png")
    assert told.unread == {broken: "cannot identify image file"}
    for at in range(18):
        if at == broken:
            assert np.isnan(told.confidence[at])
            continue
        order = sorted(range(proba.shape[1]), key=lambda c: -proba[at, c])
        assert [told.first[at], told.second[at]] == order[:2]
        assert told.confidence[at] == pytest.approx(proba[at, order[0]])
        assert told.second_confidence[at] == pytest.approx(proba[at, order[1]])
        assert ("other" if told.other[at] else told.classes[order[0]]) == predicted[at]


def test_features_give_the_same(model: DualEncoder, corrupt: Path) -> None:
    classifier = ZeroShotClassifier(model, COLOURS)
    data = load_data(corrupt)
    features, rows, errors = encode_images(model, (sample.image for sample in data))
    told, again = guess(classifier, data), guess_features(classifier, features, rows, dict(errors))
    np.testing.assert_array_equal(told.first[rows], again.first[rows])
    np.testing.assert_allclose(told.confidence, again.confidence, rtol=1e-4)
    assert told.unread == again.unread


def test_no_images_and_one_label(make_model: Callable[..., DualEncoder], photos: Path) -> None:
    assert len(guess(ZeroShotClassifier(make_model(), COLOURS), []).first) == 0
    told = guess(ZeroShotClassifier(make_model(), ["red"], other="a dog"), load_data(photos))
    assert set(told.first) | set(told.second) == {0, 1}
