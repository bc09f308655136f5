"""Geometry against loops in double precision, written from the papers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipkit.data import Dataset
from clipkit.errors import DataError
from clipkit.evaluate import Geometry, ranks
from clipkit.evaluate.geometry import effective_rank
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample
from tests.conftest import square
from tests.evaluate.fixed import Fixed


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "ROWS", 3)
    monkeypatch.setattr(ranks, "COLUMNS", 4)


def uniformity(rows: Tensor) -> float:
    pairs = torch.pdist(rows.double())
    return math.log(float((-2 * pairs.square()).exp().mean()))


def on_sphere(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=1)


def test_captioned_data_each_picture_and_caption_once(model: DualEncoder) -> None:
    torch.manual_seed(0)
    red, blue = square("red"), square("blue")
    rows = [
        Sample("0", red, ("a flag", "a banner")),
        Sample("1", blue, ("The  Sea",)),
        Sample("2", red.copy(), ("a cloth",)),
        Sample("3", None, ("the sea",)),
        Sample("4", None, ("a dog", "a cat", "a pig", "a cow")),
        Sample("5", square("green")),
    ]
    images, texts = on_sphere(6, 5), on_sphere(9, 5)
    found = Geometry(data=Dataset("d", rows))(model, Fixed(images, texts))
    kept_images, kept_texts = (
        images[[0, 1, 3, 4]].double(),
        texts[[0, 1, 2, 3, 5, 6, 7, 8]].double(),
    )
    belongs = torch.zeros(8, 4, dtype=torch.bool)
    for text, image in ((0, 0), (1, 0), (3, 0), (2, 1), (2, 2), (4, 3), (5, 3), (6, 3), (7, 3)):
        belongs[text, image] = True
    distances = torch.cdist(kept_texts, kept_images)
    expected: dict[str, Any] = {
        "d_positive": distances[belongs].mean(),
        "d_negative": distances[~belongs].mean(),
        "alignment": distances[belongs].square().mean(),
        "image_uniformity": uniformity(kept_images),
        "text_uniformity": uniformity(kept_texts),
        "modality_gap": (kept_images.mean(0) - kept_texts.mean(0)).norm(),
        "image_effective_rank": slow_rank(kept_images),
        "text_effective_rank": slow_rank(kept_texts),
    }
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-5)


def test_labelled_data_by_class(model: DualEncoder) -> None:
    torch.manual_seed(1)
    labels = [str(at % 3) for at in range(14)]
    rows = [Sample(str(at), None, label=label) for at, label in enumerate(labels)]
    rows.insert(2, Sample("bare", None))
    red = square("red")
    rows += [Sample("x", red, label="0"), Sample("y", red.copy(), label="1")]
    images = on_sphere(17, 4)
    found = Geometry(data=Dataset("d", rows))(model, Fixed(images, torch.zeros(0, 4)))
    kept = [at for at in range(16) if at != 2]
    features, classes = images[kept].double(), [rows[at].label for at in kept]
    pairs = [(i, j) for i in range(15) for j in range(i)]
    distances = {p: float((features[p[0]] - features[p[1]]).norm()) for p in pairs}
    same = [d for (i, j), d in distances.items() if classes[i] == classes[j]]
    other = [d for (i, j), d in distances.items() if classes[i] != classes[j]]
    expected: dict[str, Any] = {
        "d_positive": np.mean(same),
        "d_negative": np.mean(other),
        "alignment": np.mean(np.square(same)),
        "image_uniformity": uniformity(features),
        "image_effective_rank": slow_rank(features),
    }
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-5)


def slow_rank(features: Tensor) -> float:
    values = np.linalg.svd(features.double().numpy(), compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-sum(p * np.log(p) for p in shares if p > 0)))


def test_the_effective_rank_counts_dimensions() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1, abs=1e-5)
    torch.manual_seed(0)
    plane = torch.randn(50, 2) @ torch.randn(2, 6)
    assert effective_rank(plane) == pytest.approx(slow_rank(plane), abs=1e-4)
    assert effective_rank(plane) <= 2 + 1e-4


def test_too_little_to_describe(model: DualEncoder) -> None:
    def told(*rows: Sample) -> None:
        Geometry(data=Dataset("d", rows))(model, Fixed(torch.eye(len(rows)), torch.eye(len(rows))))

    with pytest.raises(DataError, match="captions or labels"):
        told(Sample("0", None))
    with pytest.raises(DataError, match="do not belong together"):
        told(Sample("0", None, ("one",)), Sample("1", None, ("One",)))
    with pytest.raises(DataError, match="two pictures of one class"):
        told(Sample("0", None, label="a"), Sample("1", None, label="b"))


def test_labels_where_there_are_captions_too(model: DualEncoder) -> None:
    torch.manual_seed(0)
    rows = [Sample(str(n), square("red", n), (f"text {n}",), "ab"[n % 2]) for n in range(6)]
    bare = [Sample(row.id, row.image, label=row.label) for row in rows]
    images = on_sphere(6, 4)
    fixed = Fixed(images, on_sphere(6, 4))
    both, plain = Dataset("both", rows), Dataset("plain", bare)
    labelled = Geometry(data=both, positives="labels")(model, fixed)
    assert labelled == Geometry(data=plain)(model, fixed)
    captioned = Geometry(data=both, positives="captions")(model, fixed)
    assert captioned == Geometry(data=both)(model, fixed)
    assert "modality_gap" in captioned
    assert "modality_gap" not in labelled
    with pytest.raises(DataError, match="geometry of captions needs some"):
        Geometry(data=plain, positives="captions")(model, fixed)
