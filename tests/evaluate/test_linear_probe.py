from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from clipkit.classify.linear_head import Head, fit_linear_head
from clipkit.data import Dataset, load_data
from clipkit.errors import ConfigError, DataError
from clipkit.evaluate import LinearProbe, ZeroShot, linear_probe
from clipkit.evaluate.linear_probe import held_out, neighbours, unprojected
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.feature_cache import FeatureCache
from clipkit.types import Sample

NAMES = ("ant", "bee", "cat")


class ByName:
    """Features of each data set by its name."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        self.features = features

    def images(self, model: DualEncoder, data: Dataset) -> tuple[Tensor, list[int]]:
        return self.features[data.name], list(range(len(data)))

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Tensor:
        raise AssertionError("a linear probe reads no text")


def blobs(name: str, count: int, noise: float = 0.6) -> tuple[Dataset, Tensor]:
    """Rows of three classes on the sphere."""
    labels = torch.arange(count) % 3
    features = torch.eye(8)[labels] + noise * torch.randn(count, 8)
    rows = [Sample(str(at), None, label=NAMES[label]) for at, label in enumerate(labels)]
    return Dataset(name, rows), torch.nn.functional.normalize(features, dim=1)


@pytest.fixture
def sets() -> tuple[dict[str, Dataset], ByName]:
    torch.manual_seed(0)
    made = {name: blobs(name, n) for name, n in (("train", 90), ("val", 300), ("test", 240))}
    made["val"][1][:] = blobs("val", 300, 0.9)[1]
    features = {name: features for name, (_, features) in made.items()}
    return {name: data for name, (data, _) in made.items()}, ByName(features)


def labels_of(data: Dataset) -> list[int]:
    return [NAMES.index(str(sample.label)) for sample in data]


def test_it_is_logistic_regression_at_the_penalty_that_is_best_on_validation_data(
    model: DualEncoder, sets: tuple[dict[str, Dataset], ByName]
) -> None:
    data, encoder = sets
    probe = LinearProbe(train=data["train"], data=data["test"], validation=data["val"])
    metrics = probe(model, encoder)
    tried = {}
    for penalty in probe.penalties:
        other = LogisticRegression(C=1 / (penalty * 90), tol=1e-8, max_iter=10_000)
        other.fit(encoder.features["train"], labels_of(data["train"]))
        tried[penalty] = other.score(encoder.features["val"], labels_of(data["val"]))
    best = max(tried.values())
    assert best > min(tried.values())
    chosen = LogisticRegression(C=1 / (metrics["penalty"] * 90), tol=1e-8, max_iter=10_000)
    chosen.fit(encoder.features["train"], labels_of(data["train"]))
    score = chosen.score(encoder.features["val"], labels_of(data["val"]))
    assert score >= best - 1 / 300
    expected = chosen.score(encoder.features["test"], labels_of(data["test"]))
    assert metrics["top1"] == pytest.approx(expected, abs=1 / 240)
    assert metrics["top1_low"] <= expected <= metrics["top1_high"]
    assert metrics["top5"] == 1
    assert metrics["classes"] == 3


def test_no_weaker_penalty_is_tried_once_two_were_no_better(
    model: DualEncoder, sets: tuple[dict[str, Dataset], ByName], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, encoder = sets
    tried: list[float] = []

    def noting(*given: Any, penalty: float, **more: Any) -> Head:
        tried.append(penalty)
        return fit_linear_head(*given, penalty=penalty, **more)

    monkeypatch.setattr(linear_probe, "fit_linear_head", noting)
    grid = tuple(10.0**exponent for exponent in range(2, -13, -1))
    probe = LinearProbe(
        train=data["train"], data=data["test"], validation=data["val"], penalties=grid
    )
    chosen = probe(model, encoder)["penalty"]
    *tried, last = tried
    walked = [penalty for penalty in tried if penalty in grid]
    assert walked == list(grid[: len(walked)]) and len(walked) < len(grid)
    assert walked[-1] < chosen / 10 and chosen == last


def test_all_of_train_is_fitted_and_the_choice_is_seeded(
    model: DualEncoder, sets: tuple[dict[str, Dataset], ByName]
) -> None:
    data, encoder = sets
    probe = LinearProbe(train=data["train"], data=data["train"], penalties=(1e-6,))
    details = probe.details(model, encoder)
    assert details.metrics["penalty"] == 1e-6
    features, labels = encoder.features["train"], torch.tensor(labels_of(data["train"]))
    weights, bias = fit_linear_head(features, labels, 3, penalty=1e-6)
    sure = (features @ weights.T + bias).softmax(1).max(1).values
    torch.testing.assert_close(details.answers.confidence, sure)
    seeds = [LinearProbe(train=data["train"], data=data["test"], seed=s) for s in (0, 0, 1)]
    first, again, other = (probe(model, encoder) for probe in seeds)
    assert first == again
    assert other["classes"] == 3


def test_a_fifth_of_each_class_is_held_out_but_never_its_only_image() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [2])
    held = held_out(labels, 0)
    assert [int(held[labels == label].sum()) for label in range(3)] == [4, 1, 0]
    assert torch.equal(held, held_out(labels, 0))
    assert any(not torch.equal(held, held_out(labels, seed)) for seed in range(1, 4))


def test_neighbours() -> None:
    assert neighbours((3.0, 2.0, 1.0), 3.0) == [2.0]
    assert neighbours((3.0, 2.0, 1.0), 2.0) == [3.0, 1.0]


def test_what_cannot_be_probed_is_told(
    model: DualEncoder, sets: tuple[dict[str, Dataset], ByName]
) -> None:
    data, encoder = sets
    foreign = Dataset("test", [Sample("x", None, label="dog"), *data["test"].samples[1:]])
    with pytest.raises(DataError, match="test: label 'dog' has no image in train"):
        LinearProbe(train=data["train"], data=foreign)(model, encoder)
    bare = Dataset("train", [Sample(str(at), None) for at in range(90)])
    with pytest.raises(DataError, match="train: a linear probe needs labels"):
        LinearProbe(train=bare, data=data["test"])(model, encoder)
    one = Dataset("train", [Sample(str(at), None, label="ant") for at in range(90)])
    with pytest.raises(DataError, match="two classes; it has 1"):
        LinearProbe(train=one, data=data["test"])(model, encoder)
    few = Dataset("train", data["train"].samples[:3])
    short = ByName({**encoder.features, "train": encoder.features["train"][:3]})
    with pytest.raises(DataError, match="give validation data"):
        LinearProbe(train=few, data=data["test"])(model, short)
    LinearProbe(train=few, data=data["test"], validation=data["val"])(model, short)
    with pytest.raises(ConfigError, match="numbers above 0"):
        LinearProbe(train=few, data=few, penalties=(0.0,))


def test_pictures_of_plain_colours_are_learned(
    model: DualEncoder, classes: Path, tmp_path: Path
) -> None:
    """By a random model, whose prompts know nothing; from the cache of a training as well."""
    data = load_data(classes)
    probe = LinearProbe(train=str(classes), data=data)
    metrics = probe(model)
    assert metrics["top1"] > ZeroShot(data=data)(model)["top1"] + 0.3
    for parameter in model.image_tower.parameters():
        parameter.requires_grad_(False)
    assert probe(model, FeatureCache(tmp_path / "cache"))["top1"] == metrics["top1"]
    details = probe.details(model)
    assert len(details.ids) == len(data)
    assert details.templates == ()


def test_the_features_of_the_tower(model: DualEncoder, classes: Path) -> None:
    """They are what the tower gives, normalised; the model stays as it is."""
    images = torch.rand(3, 3, model.preprocessing.size, model.preprocessing.size)
    before = model.eval().encode_image(images)
    bare = unprojected(model)
    features = model.image_tower(images)
    torch.testing.assert_close(bare.encode_image(images), features / features.norm(dim=1)[:, None])
    assert torch.equal(model.encode_image(images), before)
    data = str(classes)
    tower = LinearProbe(train=data, data=data, features="tower")(model)
    joint = LinearProbe(train=data, data=data)(model)
    assert tower["classes"] == joint["classes"] == 6
    assert tower != joint
