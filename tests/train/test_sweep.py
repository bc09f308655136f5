import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.embed.fill import fill_store
from clipkit.embed.store import StoreInfo
from clipkit.encode import encode_images
from clipkit.errors import ConfigError, ModelError
from clipkit.evaluate import Retrieval, ZeroShot
from clipkit.evaluate import encoder as direct
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters
from clipkit.train import feature_cache
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.interpolate import interpolated
from clipkit.train.scores import Scoring, flatten, score
from clipkit.train.sweep import Point, TradeOff, sweep

Make = Callable[..., DualEncoder]
ALPHAS = [0.25, 0.5]


@torch.no_grad()
def moved(model: DualEncoder, *parts: str) -> DualEncoder:
    """Return a copy in which some parts differ."""
    tuned = copy.deepcopy(model)
    torch.manual_seed(1)
    for part in parts:
        for parameter in tuned.get_submodule(part).parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tuned


@pytest.fixture
def scorings(photos: Path, classes: Path) -> list[Scoring]:
    general = load_data(photos)
    labelled = [sample.captions[0].split()[4] for sample in general]
    both = Dataset(
        "both",
        [
            type(sample)(sample.id, sample.image, sample.captions, label)
            for sample, label in zip(general, labelled, strict=True)
        ],
    )
    return [
        Scoring("data", "mine", ZeroShot(data=load_data(classes))),
        Scoring("general", "photos", Retrieval(data=both)),
        Scoring("general", "labels", ZeroShot(data=both)),
    ]


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each time that a data set's images go through a tower."""
    runs = []
    fill, encode = fill_store, encode_images

    def filled(folder: Path, info: StoreInfo, *words: Any, **more: Any) -> Any:
        if info.what == "images":
            runs.append("feature_cache")
        return fill(folder, info, *words, **more)

    def encoded(*words: Any, **more: Any) -> Any:
        runs.append("encoder")
        return encode(*words, **more)

    monkeypatch.setattr(feature_cache, "fill_store", filled)
    monkeypatch.setattr(direct, "encode_images", encoded)
    return runs


@pytest.mark.parametrize(
    ("parts", "runs"),
    [
        (["image_projection", "text_projection"], ["feature_cache"] * 2),
        (["text_tower", "text_projection"], ["feature_cache"] * 2),
        (["image_tower"], ["encoder"] * 2 * 4),
    ],
)
def test_a_sweep_scores_what_each_model_scores(
    model: DualEncoder,
    scorings: list[Scoring],
    parts: list[str],
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuned = moved(model, *parts)
    expected = {
        alpha: score(interpolated(model, tuned, alpha), scorings, DirectEncoder())
        for alpha in (0, 0.25, 0.5, 1)
    }
    seen = count_images(monkeypatch)
    told: list[tuple[int, int | None]] = []
    cache = FeatureCache(tmp_path / "cache")
    found = sweep(
        model, tuned, ALPHAS, scorings, cache=cache, on_progress=lambda *now: told.append(now)
    )
    for point in found.points:
        assert flatten(point.scores) == pytest.approx(flatten(expected[point.alpha]), abs=1e-6)
    assert len({str(scores) for scores in expected.values()}) > 1
    assert seen == runs
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.metrics == {
        "data": ["mine.top1"],
        "general": ["photos.mean_recall", "labels.top1"],
    }
    general = expected[0.25]["general"]
    mean = (general["photos"]["mean_recall"] + general["labels"]["top1"]) / 2
    assert found.points[1].general == pytest.approx(mean)
    assert all(parameter.requires_grad for parameter in tuned.parameters())


def test_features_of_one_model_are_not_those_of_the_next(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    data = load_data(photos)
    scorings = [Scoring(section, "photos", Retrieval(data=data)) for section in ("data", "general")]
    tuned = moved(model, "image_tower")
    found = sweep(model, tuned, [], scorings, cache=FeatureCache(tmp_path / "cache"))
    before, after = (score(each, scorings, DirectEncoder()) for each in (model, tuned))
    assert before != after
    assert [point.scores for point in found.points] == [before, after]


def test_adapters(model: DualEncoder, scorings: list[Scoring], tmp_path: Path) -> None:
    tuned = copy.deepcopy(model)
    add_lora(tuned, rank=2, towers=["text_tower"])
    with torch.no_grad():
        for parameter in lora_parameters(tuned):
            parameter.add_(torch.randn_like(parameter))
    found = sweep(model, tuned, [0.5], scorings, cache=FeatureCache(tmp_path / "cache"))
    for alpha, point in zip((0, 0.5, 1), found.points, strict=True):
        mixed = interpolated(model, tuned, alpha)
        expected = flatten(score(mixed, scorings, DirectEncoder()))
        assert flatten(point.scores) == pytest.approx(expected, abs=1e-6)
    assert "lora" in tuned.architecture


@pytest.mark.parametrize("part", ["image_projection", "image_tower"])
def test_rejected_rows_are_told(
    model: DualEncoder, corrupt: Path, tmp_path: Path, part: str
) -> None:
    scorings = [
        Scoring(section, "photos", Retrieval(data=str(corrupt))) for section in ("data", "general")
    ]
    cache = FeatureCache(tmp_path / "cache", max_rejected=0.1)
    sweep(model, moved(model, part), ALPHAS, scorings, cache=cache)
    assert [reject.id for reject in cache.rejects.values()] == ["red1.png"]


def test_a_metric_can_be_named(model: DualEncoder, scorings: list[Scoring], tmp_path: Path) -> None:
    def metrics(metric: str, general_metric: str | None = None) -> dict[str, list[str]]:
        cache = FeatureCache(tmp_path / "cache")
        found = sweep(
            model, model, [], scorings, cache=cache, metric=metric, general_metric=general_metric
        )
        return found.metrics

    found = metrics(metric="mean_class_recall", general_metric="photos.text_to_image_r1")
    assert found == {"data": ["mine.mean_class_recall"], "general": ["photos.text_to_image_r1"]}
    with pytest.raises(ConfigError, match="no metric 'topp1' of data; did you mean 'top1'"):
        metrics(metric="topp1")
    with pytest.raises(ConfigError, match="nothing is scored as 'general'"):
        cache = FeatureCache(tmp_path / "cache")
        sweep(model, model, [], scorings[:1], cache=cache)


def test_what_cannot_be_swept(make_model: Make, scorings: list[Scoring], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(ConfigError, match="alpha: 2 is not a share"):
        sweep(make_model(), make_model(), [2], scorings, cache=cache)
    with pytest.raises(ModelError, match="cannot be interpolated"):
        sweep(make_model(), make_model(projection="mlp"), [0.5], scorings, cache=cache)


def way(*points: tuple[float, float, float]) -> TradeOff:
    """Return a trade-off of (alpha, data, general) in percent."""
    return TradeOff(
        [Point(alpha, {}, data / 100, general / 100) for alpha, data, general in points],
        {"data": ["mine.top1"], "general": ["photos.top1"]},
    )


def test_gain_kept_and_loss_suffered() -> None:
    found = way((0, 10, 80), (0.5, 46, 75), (0.7, 48, 75), (0.8, 50, 70), (1, 50, 60))
    assert [found.gain_kept(p) for p in found.points] == pytest.approx([0, 0.9, 0.95, 1, 1])
    assert [found.loss_suffered(p) for p in found.points] == pytest.approx([0, 0.25, 0.25, 0.5, 1])
    assert found.recommended is found.points[2]  # as little loss as 0.5, and more gain
    assert found.words() == (
        "Alpha 0.7 is recommended: it keeps 95 % of the gain (+38.0 of +40.0 points)"
        " for 25 % of the loss (-5.0 of -20.0 points)."
    )
    summary = found.summary()
    assert summary["recommended"] == 0.7
    assert summary["points"][1]["loss_suffered"] == pytest.approx(0.25)


def test_less_than_enough_of_the_gain_is_not_recommended() -> None:
    found = way((0, 10, 80), (0.5, 45.9, 80), (0.6, 46, 79), (1, 50, 60))
    assert found.recommended is found.points[2]
    found = way((0, 10, 80), (0.5, 40, 80), (1, 50, 60))
    assert found.recommended is found.points[2]
    assert found.words() == (
        "Alpha 1, the tuned model itself, is recommended: no other that was tried keeps 90 % of"
        " its gain (+40.0 points) for less than its loss (-20.0 points)."
    )


def test_a_model_between_may_lose_nothing() -> None:
    found = way((0, 10, 80), (0.5, 60, 81), (1, 50, 60))
    assert found.words() == (
        "Alpha 0.5 is recommended: it keeps 125 % of the gain (+50.0 of +40.0 points)"
        " and loses nothing (+1.0 in place of -20.0 points)."
    )


@pytest.mark.parametrize("general", [80, 85])
def test_nothing_lost(general: float) -> None:
    found = way((0, 10, 80), (0.5, 45, 82), (1, 50, general))
    assert found.recommended is found.points[-1]
    assert found.loss_suffered(found.points[1]) is None
    assert f"lost nothing in general (80.0 % before, {general}.0 % after)" in found.words()


@pytest.mark.parametrize("data", [10, 5])
def test_nothing_gained(data: float) -> None:
    found = way((0, 10, 80), (0.5, 12, 75), (1, data, 60))
    assert found.recommended is None
    assert found.summary()["recommended"] is None
    assert found.gain_kept(found.points[1]) is None
    assert found.words() == (
        f"The tuned model gained nothing on the data (10.0 % before, {data}.0 % after):"
        " no alpha is recommended."
    )
