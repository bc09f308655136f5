import csv
from pathlib import Path

import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from clipkit.evaluate.answers import Answers
from clipkit.evaluate.details import ClassificationDetails, TemplateScore

NAMES = ("ant", "bée", "cat, dog", "none")


@pytest.fixture
def details() -> ClassificationDetails:
    torch.manual_seed(0)
    labels, predicted = torch.randint(3, (50,)), torch.randint(4, (50,))
    answers = Answers(labels, predicted, labels >= 0, torch.rand(50))
    templates = (TemplateScore("a {}", 0.5, 0.25, 0.25), TemplateScore("{}", 0.5, None, None))
    ids = [f"{at}.jpg" for at in range(50)]
    return ClassificationDetails({"top1": 0.25}, NAMES, ids, answers, templates)


def test_classes_are_those_of_scikit_learn(details: ClassificationDetails) -> None:
    labels, predicted = details.answers.labels, details.answers.predicted
    table = confusion_matrix(labels, predicted, labels=range(4))
    precision, recall, _, support = precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=0
    )
    classes = details.classes()
    assert [c.label for c in classes][-1] == "none"
    assert (classes[-1].recall, classes[-1].images) == (None, 0)
    assert [c.recall for c in classes[:3]] == sorted(recall[:3])
    for scored in classes[:3]:
        at = NAMES.index(scored.label)
        assert scored.recall == pytest.approx(recall[at])
        assert scored.precision == pytest.approx(precision[at])
        assert scored.images == support[at]
        assert scored.answers == table[:, at].sum()
        wrong = table[at].copy()
        wrong[at] = 0
        assert scored.mistakes == wrong.max()
        assert wrong[NAMES.index(scored.mistaken_for)] == wrong.max()
    counts = {(c.label, c.predicted): c.images for c in details.confusions()}
    for at, label in enumerate(NAMES):
        for other, given in enumerate(NAMES):
            assert counts.get((label, given), 0) == table[at, other]


def test_images_come_by_how_sure_the_mistake_is(details: ClassificationDetails) -> None:
    images = details.images()
    wrong = [image for image in images if not image.right]
    assert images[: len(wrong)] == wrong
    assert [image.confidence for image in wrong] == sorted(
        (image.confidence for image in wrong), reverse=True
    )
    at = int(images[0].id.removesuffix(".jpg"))
    assert images[0].label == NAMES[details.answers.labels[at]]
    assert images[0].confidence == pytest.approx(float(details.answers.confidence[at]))


def test_files_say_the_same(details: ClassificationDetails, tmp_path: Path) -> None:
    details.write(tmp_path / "new" / "folder")
    tables = {}
    for path in (tmp_path / "new" / "folder").glob("*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as stream:
            tables[path.stem] = list(csv.DictReader(stream))
    assert set(tables) == {"classes", "confusions", "images", "templates"}
    assert [row["label"] for row in tables["classes"]] == [c.label for c in details.classes()]
    assert sum(int(row["images"]) for row in tables["confusions"]) == 50
    assert len(tables["images"]) == 50
    assert tables["templates"][1] == {
        "template": "{}",
        "alone": "0.500000",
        "without": "",
        "gain": "",
    }
    assert '"top1": 0.25' in (tmp_path / "new" / "folder" / "metrics.json").read_text()
