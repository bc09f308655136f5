import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import clipkit
from clipkit.errors import ConfigError
from clipkit.evaluate import LinearProbe
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import Counts

Make = Callable[..., DualEncoder]


@pytest.fixture
def recipe(make_model: Make, corrupt: Path, classes: Path, tmp_path: Path) -> Path:
    make_model().save(str(tmp_path / "base"))
    settings = {
        "model": str(tmp_path / "base"),
        "data": {"train": str(corrupt)},
        "batch_size": 6,
        "epochs": 12,
        "max_rejected": 0.1,
        "optim": {"lr": 0.01, "warmup_steps": 5},
        "evaluate": {"mine": {"name": "retrieval", "data": str(corrupt)}},
        "general": {"colours": {"name": "zero_shot", "data": str(classes)}},
        "out": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_leaves_everything_behind(recipe: Path, tmp_path: Path) -> None:
    result = clipkit.train(recipe)
    assert result.folder == tmp_path / "run"
    names = {path.name for path in result.folder.iterdir()}
    assert names == {
        "recipe.yaml", "log.jsonl", "timings.jsonl", "metrics.json", "rejects.jsonl", "checkpoints",
        "model",
    }  # fmt: skip
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["steps"] == 36
    for moment in ("before", "after"):
        assert set(metrics[moment]) == {"data", "general"}
        assert 0 <= metrics[moment]["general"]["colours"]["top1"] <= 1
    gain = metrics["after"]["data"]["mine"]["mean_recall"]
    assert gain > metrics["before"]["data"]["mine"]["mean_recall"]
    rejects = [json.loads(x) for x in (result.folder / "rejects.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejects] == ["red1.png"]
    saved = load(result.folder / "model")
    assert saved.fingerprint() == result.model.fingerprint()
    description = json.loads((result.folder / "model" / "clipkit.json").read_text())
    assert description["training_data"] == [metrics["data"]["fingerprint"]]


def test_a_run_scores_probe_and_geometry_and_is_judged_by_them(
    recipe: Path, classes: Path, tmp_path: Path
) -> None:
    """From the features that training keeps; other metrics leave the default choice as it is."""
    settings = yaml.safe_load(recipe.read_text())
    settings["general"]["probe"] = {
        "name": "linear_probe", "train": str(classes), "data": str(classes), "every_steps": 12,
    }  # fmt: skip
    settings["general"]["shape"] = {"name": "geometry", "data": str(classes)}
    settings["best"] = "probe.top1"
    recipe.write_text(yaml.safe_dump(settings))
    metrics = clipkit.train(recipe).metrics
    assert metrics["best"]["metric"] == "probe.top1"
    for moment in ("before", "after"):
        scores = metrics[moment]["general"]
        assert scores["probe"]["top1_low"] <= scores["probe"]["top1"]
        assert 0 <= scores["shape"]["d_positive"] <= 2
    own = load(tmp_path / "run" / "model")
    again = LinearProbe(train=str(classes), data=str(classes))(own)
    assert again["top1"] == metrics["after"]["general"]["probe"]["top1"]


def test_the_resolved_recipe_repeats_the_run(recipe: Path, tmp_path: Path) -> None:
    first = clipkit.train(recipe, ["epochs=2"])
    again = clipkit.train(first.folder / "recipe.yaml", [f"out={tmp_path / 'again'}"])
    assert again.model.fingerprint() == first.model.fingerprint()


def test_a_run_is_not_overwritten_unless_told(recipe: Path) -> None:
    first = clipkit.train(recipe, ["epochs=1"])
    kept = (first.folder / "metrics.json").read_text()
    with pytest.raises(ConfigError, match="--restart"):
        clipkit.train(recipe, ["epochs=0"])
    assert (first.folder / "metrics.json").read_text() == kept
    assert clipkit.train(recipe, ["epochs=0"], restart=True).metrics["steps"] == 0


def test_everything_trains_too(recipe: Path) -> None:
    result = clipkit.train(recipe, ["trainable=all", "epochs=1", "augment=true", "flip=true"])
    assert result.metrics["parameters"]["image_tower"]["trained"] > 0
    images = torch.randn(2, 3, 32, 32)
    saved = load(result.folder / "model")
    with torch.inference_mode():
        assert torch.equal(saved.encode_image(images), result.model.encode_image(images))


@pytest.mark.parametrize("adapters", ["alone", "merged"])
def test_adapters_train_and_are_saved(recipe: Path, adapters: str) -> None:
    told: list[Counts] = []
    result = clipkit.train(
        recipe,
        ["trainable={name: lora, rank: 2}", f"save.adapters={adapters}", "epochs=2"],
        on_start=told.append,
    )
    assert result.metrics["parameters"] == {
        part: {"trained": trained, "frozen": still} for part, (trained, still) in told[0].items()
    }
    trained, still = told[0]["text_tower"]
    assert 0 < trained < still
    assert (result.folder / "model" / "adapters.safetensors").exists() == (adapters == "alone")
    images = torch.randn(2, 3, 32, 32)
    saved = load(result.folder / "model")
    with torch.inference_mode():
        difference = saved.encode_image(images) - result.model.encode_image(images)
    assert difference.abs().max() <= (0 if adapters == "alone" else 1e-5)


def test_the_best_adapters_are_kept(recipe: Path) -> None:
    """Also where the best step is before the first: nothing of the training is left."""
    overrides = ["trainable={name: lora, rank: 2}", "best=mine.mean_recall", "optim.lr=1e-30"]
    result = clipkit.train(recipe, [*overrides, "epochs=1"])
    assert result.metrics["best"]["step"] == 0
    assert result.metrics["after"] == result.metrics["before"]


def test_last_blocks_train(recipe: Path, tmp_path: Path) -> None:
    result = clipkit.train(recipe, ["trainable={name: last_blocks, text: 0}", "epochs=1"])
    before, after = (
        load(tmp_path / "base").state_dict(),
        load(result.folder / "model").state_dict(),
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    towers = {name for name in moved if "_tower." in name}
    assert towers
    assert all(name.startswith("image_tower.model.layer4.") for name in towers)


@pytest.mark.parametrize("how", ["head", "sentence", "pieces"])
def test_long_captions_are_counted(recipe: Path, corrupt: Path, how: str) -> None:
    (corrupt / "red0.txt").write_text("a red square. " * 9)
    result = clipkit.train(recipe, ["epochs=1", f"data.long_captions={how}"])
    assert result.metrics["captions"] == {"seen": 17, "cut": 1, "long_captions": how}
    kept = load(result.folder / "model").long_texts
    assert kept == ("pieces" if how == "pieces" else "head")


def test_labels_are_captions_where_there_are_none(recipe: Path, classes: Path) -> None:
    result = clipkit.train(recipe, [f"data.train={classes}", "general={}", "evaluate={}"])
    assert result.metrics["captions"]["seen"] == 12
    with pytest.raises(ConfigError, match=r"data.label_templates: 'a' is no named set"):
        clipkit.train(recipe, ["data.label_templates=a"])


@pytest.mark.slow
def test_the_recipe_with_adapters_learns(tmp_path: Path) -> None:
    result = clipkit.train("openmoji_lora", ["epochs=1", "general={}", f"out={tmp_path / 'run'}"])
    trained, frozen = (
        result.metrics["parameters"]["text_tower"][key] for key in ("trained", "frozen")
    )
    assert trained < 0.01 * frozen
    before, after = (result.metrics[at]["data"]["openmoji"] for at in ("before", "after"))
    assert after["mean_recall"] > 1.5 * before["mean_recall"]
    assert (result.folder / "model" / "adapters.safetensors").stat().st_size < 1_000_000
    assert load(result.folder / "model").fingerprint() == result.model.fingerprint()
