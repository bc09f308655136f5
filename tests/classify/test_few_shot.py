import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.few_shot import FOLDS, Choice, _folds, adapt_head, left_out_logits
from clipkit.classify.head import ExampleCache, Head
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder

CLASSES, DIM = 4, 12
COLOURS = ["red", "green", "blue"]


def blobs(each: int, seed: int = 0, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    """Draw features around a direction for each class."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    noise = spread * torch.randn(len(labels), DIM, generator=generator)
    return torch.nn.functional.normalize(centres[labels] + noise, dim=1), labels


def poor_head() -> Head:
    """Return a head that knows a little: the class directions among much noise."""
    generator = torch.Generator().manual_seed(5)
    features, labels = blobs(200, seed=7)
    means = torch.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    noisy = means + 0.35 * torch.randn(CLASSES, DIM, generator=generator)
    return Head(10 * torch.nn.functional.normalize(noisy, dim=1), torch.zeros(CLASSES))


def accuracy(head: Head, features: Tensor, labels: Tensor) -> float:
    return float((head(features).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("adapt", ["auto", "cache", "linear"])
@pytest.mark.parametrize("each", [1, 2, 16])
def test_examples_help(adapt: str, each: int) -> None:
    head = poor_head()
    test = blobs(300, seed=1)
    before = accuracy(head, *test)
    gains = []
    for seed in range(5):
        train = blobs(each, seed=10 + seed)
        made, told = adapt_head(head, *train, adapt)  # type: ignore[arg-type]
        assert accuracy(made, *train) >= accuracy(head, *train)
        assert told.images == CLASSES * each
        assert told.folds == (0 if each == 1 else min(FOLDS, each))
        gains.append(accuracy(made, *test) - before)
    assert np.mean(gains) > (0.0 if each == 1 else 0.02)


def test_what_says_nothing_changes_nothing() -> None:
    features, labels = blobs(8, spread=0.1)
    good = Head(
        1000 * torch.stack([features[labels == c].mean(0) for c in range(CLASSES)]),
        torch.zeros(CLASSES),
    )
    made, told = adapt_head(good, features, labels, "auto")
    assert told.choice == Choice("none")
    assert made is good
    assert told.accuracy == told.zero_shot_accuracy == 1.0
    assert adapt_head(poor_head(), features, labels, "none")[1].choice == Choice("none")


def test_the_cache_equals_the_paper() -> None:
    train, labels = blobs(3)
    test, _ = blobs(2, seed=1)
    cache = ExampleCache(train, labels, weight=1.7, sharpness=5.5)
    head = Head(poor_head().weights, torch.full((CLASSES,), -2.0), cache)
    found = head(test)
    for i in range(len(test)):
        for c in range(CLASSES):
            value = float(test[i] @ head.weights[c]) - 2.0
            for j in range(len(train)):
                if labels[j] == c:
                    value += 1.7 * math.exp(-5.5 * (1 - float(test[i] @ train[j])))
            assert float(found[i, c]) == pytest.approx(value, abs=1e-4)


def test_each_image_is_left_out_once_and_never_the_only_one_of_its_label() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] + [0] * 3)
    folds = _folds(labels, 4)
    left_out = torch.stack(folds).sum(0)
    assert left_out.tolist() == [0 if label == 2 else 1 for label in labels.tolist()]
    for fold in folds:
        assert set(labels[~fold].tolist()) == {0, 1, 2}
        assert bool(fold.any())
    assert _folds(torch.arange(3), 3) == []


def test_a_classifier_learns_colours(model: DualEncoder, photos: Path) -> None:
    files = [photos / f"{colour}{n}.png" for colour in COLOURS for n in range(3)]
    truth = [colour for colour in COLOURS for _ in range(3)]
    classifier = ZeroShotClassifier(model, COLOURS)
    before = classifier.score(files, truth)
    assert classifier.fit(files, truth) is classifier
    assert classifier.few_shot_ is not None
    assert classifier.few_shot_.images == 9
    assert classifier.score(files, truth) >= before
    assert f"fitted={classifier.few_shot_.choice.method!r}" in repr(classifier)
    first = classifier.decision_function(files)
    np.testing.assert_array_equal(classifier.fit(files, truth).decision_function(files), first)


def test_labels_that_the_data_has(model: DualEncoder, classes: Path) -> None:
    classifier = ZeroShotClassifier(model, str(classes))
    by_hand = ZeroShotClassifier(model, str(classes))
    files = sorted(classes.rglob("*.png"))
    by_hand.fit(files, [file.parent.name for file in files])
    classifier.fit(str(classes))
    assert classifier.few_shot_ == by_hand.few_shot_
    assert classifier.score(str(classes)) == by_hand.score(files, [f.parent.name for f in files])
    assert classifier.calibrate(str(classes)).images == len(files)


@pytest.mark.parametrize("other", ["a photo", 0.3])
def test_what_cannot_be_learned_from(
    model: DualEncoder, photos: Path, corrupt: Path, other: str | float
) -> None:
    classifier = ZeroShotClassifier(model, COLOURS, other=other)
    red = photos / "red0.png"
    for images, labels, error, words in (
        ([red], ["green", "red"], ConfigError, "2 labels for 1 images"),
        ([red], ["rad"], ConfigError, "'rad' is no class; did you mean 'red'"),
        ([red], None, ConfigError, "1 of 1 images have none; give one for each"),
        ([red, red], ["red", "other"], ConfigError, "not of 'other'; calibrate takes those"),
        ([red, red], ["red", "red"], ConfigError, "all images are of 'red'; fit learns from"),
        ([photos / "gone.png"], ["red"], DataError, "none of the 1 images can be read"),
    ):
        with pytest.raises(error, match=words):
            classifier.fit(images, labels)
    images = [corrupt / "red1.png", corrupt / "red0.png", corrupt / "blue0.png"]
    classifier.fit(images, ["red", "red", "blue"])
    assert [reject.reason for reject in classifier.rejects_] == ["cannot identify image file"]
    assert classifier.few_shot_ is not None
    assert classifier.few_shot_.images == 2


@pytest.mark.parametrize("adapt", ["linear", "auto"])
def test_labels_without_images_keep_their_prompts(adapt: str) -> None:
    head = poor_head()
    features, labels = blobs(6)
    some = labels < 2
    made, told = adapt_head(head, features[some], labels[some], adapt)  # type: ignore[arg-type]
    assert told.choice.method == "linear"
    assert torch.equal(made.weights[2:], head.weights[2:])
    test, truth = blobs(200, seed=3)
    before = accuracy(head, test[truth >= 2], truth[truth >= 2])
    assert accuracy(made, test[truth >= 2], truth[truth >= 2]) > 0.5 * before


@pytest.mark.parametrize(
    "choice", [Choice("none"), Choice("cache", 0.3, 3.0), Choice("linear", penalty=1e-2)]
)
@pytest.mark.parametrize("each", [1, 2, 7])
def test_an_image_that_is_left_out_is_judged_by_the_others_alone(choice: Choice, each: int) -> None:
    head = poor_head()
    features, labels = blobs(each)
    logits, rows = left_out_logits(head, features, labels, choice)
    if choice.method == "none":
        assert torch.equal(logits[rows.argsort()], head(features))
        return
    assert sorted(rows.tolist()) == ([] if each == 1 else list(range(len(labels))))
    for fold in _folds(labels, CLASSES):
        for at in fold.nonzero()[:, 0].tolist():
            # Whatever is in the place of those that are left out, their logits are the same.
            changed = torch.where(fold[:, None], -features, features)
            changed[at] = features[at]
            again, order = left_out_logits(head, changed, labels, choice)
            same = [logits[rows.tolist().index(at)], again[order.tolist().index(at)]]
            torch.testing.assert_close(*same, rtol=1e-4, atol=1e-4)


def test_confidence_is_honest_on_images_that_were_fitted_on(model: DualEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, model.dim, generator=generator)

    def draw(each: int) -> tuple[np.ndarray, list[str]]:
        labels = torch.arange(3).repeat_interleave(each)
        noise = 2.0 * torch.randn(3 * each, model.dim, generator=generator)
        return (centres[labels] + noise).numpy(), [COLOURS[at] for at in labels]

    train, test = draw(8), draw(300)
    classifier = ZeroShotClassifier(model, COLOURS, adapt="linear").fit(*train)
    right = classifier.score(*test)

    def excess() -> float:
        return float(classifier.predict_proba(test[0]).max(1).mean()) - right

    classifier.calibrate(*train)  # as one should not
    lied = excess()
    found = classifier.calibrate()
    assert found.images == 24
    assert abs(excess()) < 0.1 < lied
    assert classifier.calibrate() == found


def test_there_must_be_images_to_leave_out(model: DualEncoder, photos: Path) -> None:
    classifier = ZeroShotClassifier(model, COLOURS)
    with pytest.raises(ConfigError, match="give labelled images, or call fit first"):
        classifier.calibrate()
    one = [photos / f"{colour}0.png" for colour in COLOURS]
    classifier = ZeroShotClassifier(model, COLOURS, adapt="cache").fit(one, COLOURS)
    if classifier.few_shot_ is not None and classifier.few_shot_.choice.method != "none":
        with pytest.raises(DataError, match="no label has two of the images that fit saw"):
            classifier.calibrate()
