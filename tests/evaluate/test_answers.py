import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from clipkit.classify.calibration import expected_calibration_error
from clipkit.data import Dataset
from clipkit.evaluate import answers as module
from clipkit.evaluate.answers import Labelled, answer, class_names
from clipkit.types import Sample


@pytest.mark.parametrize("classes", [3, 9])
@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_metrics_are_those_of_scikit_learn(
    classes: int, similarity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks; the confidence of a sigmoid model is its own probability."""
    monkeypatch.setattr(module, "CHUNK", 7)
    torch.manual_seed(0)
    features, weights = torch.randn(60, 5), torch.randn(classes, 5)
    labels = torch.randint(classes, (60,))
    logits = features @ weights.T
    told = answer(features, labels, lambda chunk: chunk @ weights.T, similarity=similarity)  # type: ignore[arg-type]
    metrics = told.metrics()
    expected = top_k_accuracy_score(labels, logits, k=1, labels=range(classes))
    assert metrics["top1"] == pytest.approx(expected)
    if classes > 5:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert metrics["top5"] == pytest.approx(expected)
    else:
        assert metrics["top5"] == 1
    recall = balanced_accuracy_score(labels, logits.argmax(1))
    assert metrics["mean_class_recall"] == pytest.approx(recall)
    share = logits.softmax(1) if similarity == "softmax" else logits.sigmoid()
    assert metrics["ece"] == pytest.approx(expected_calibration_error(share, labels), abs=1e-6)
    for name in ("top1", "top5", "mean_class_recall"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert list(metrics)[:3] == ["top1", "top1_low", "top1_high"]


def test_rows_with_a_label_and_their_classes() -> None:
    rows = [Sample("a", None, label="cat"), Sample("b", None), Sample("c", None, label="ant")]
    found = Labelled.of(Dataset("d", rows), [1, 2, 0])
    assert (found.places, found.ids, found.labels) == ([1, 2], ["c", "a"], ["ant", "cat"])
    assert found.numbers(("ant", "bee", "cat")).tolist() == [0, 2]
    assert Labelled.of(Dataset("d", rows), [1]).places == []
    assert class_names(Dataset("d", rows)) == ("ant", "cat")
    assert class_names(Dataset("d", rows, ("cat", "bee", "ant"))) == ("cat", "bee", "ant")
