from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.evaluate import Geometry, LinearProbe
from clipkit.losses import ClipLoss
from clipkit.models.trainable import LastBlocks, Lora, WholeTowers
from clipkit.recipe import read_recipe
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.teacher import TeacherSettings
from tests.recipe.good import BOTH, GOOD, write


@pytest.mark.parametrize(
    ("given", "full", "made"),
    [
        ("projections", "projections", WholeTowers(())),
        ("{name: all}", "all", WholeTowers()),
        (
            "last_blocks",
            {"name": "last_blocks", "n": 1, "image": None, "text": None},
            LastBlocks(),
        ),
        (
            "{name: lora, rank: 4, layers: [mlp]}",
            {
                "name": "lora",
                "rank": 4,
                "alpha": 16.0,
                "dropout": 0.0,
                "layers": ["mlp"],
                "towers": ["image_tower", "text_tower"],
            },
            Lora(rank=4, layers=("mlp",)),
        ),
    ],
)
def test_what_trains_is_a_word_or_a_component(
    tmp_path: Path, given: str, full: object, made: object
) -> None:
    plan = read_recipe(write(tmp_path, GOOD), [f"trainable={given}"])
    assert plan.recipe["trainable"] == full
    assert plan.trainable == made
    (tmp_path / "resolved.yaml").write_text(plan.yaml())
    assert read_recipe(tmp_path / "resolved.yaml").trainable == made


def test_three_mistakes_are_told_together(tmp_path: Path) -> None:
    text = GOOD.replace("lr: 1.0e-3", "lr: fast, warmup: 3").replace("retrieval", "retreival")
    with pytest.raises(ConfigError) as caught:
        read_recipe(write(tmp_path, text))
    assert len(caught.value.problems) == 3
    told = str(caught.value)
    assert "3 problems" in told
    assert "optim.lr: input should be a valid number" in told
    assert "not 'fast'" in told
    assert "optim.warmup: unknown key; did you mean 'warmup_steps'?" in told
    assert "evaluate.mine.name: 'retreival' is unknown; did you mean 'retrieval'?" in told


def test_outside_code_by_module_and_name(tmp_path: Path) -> None:
    plan = read_recipe(write(tmp_path, GOOD), ["loss=clipkit.losses.clip:ClipLoss"])
    assert plan.make_loss is not None
    assert isinstance(plan.make_loss(), ClipLoss)


@pytest.mark.parametrize(
    ("overrides", "best", "written"),
    [
        ([], "first.mean_recall", "first.mean_recall"),
        (["evaluate.first.every_steps=0"], "second.mean_recall", "second.mean_recall"),
        (["evaluate.first.every_steps=0", "evaluate.second.every_steps=0"], None, "last"),
        (["best=last"], None, "last"),
        (["best=others.i2t_r1"], "others.i2t_r1", "others.i2t_r1"),
        (["best=ends.mean_recall", "patience=4"], "ends.mean_recall", "ends.mean_recall"),
    ],
)
def test_what_chooses_the_model(
    tmp_path: Path, overrides: list[str], best: str | None, written: str
) -> None:
    """Retrieval on the user's own data where it is scored in between; and so it is written down."""
    plan = read_recipe(write(tmp_path, BOTH), overrides)
    assert plan.selection.best == best
    assert plan.selection.patience == (4 if "patience=4" in overrides else 0)
    assert plan.recipe["best"] == written
    (tmp_path / "resolved.yaml").write_text(plan.yaml())
    assert read_recipe(tmp_path / "resolved.yaml").selection == plan.selection


def test_sections_of_a_run_and_their_defaults(tmp_path: Path) -> None:
    plan = read_recipe(write(tmp_path, GOOD), ["distill.model=starter", "checkpoints.keep=5"])
    assert plan.checkpoints == CheckpointSettings(keep=5)
    assert plan.recipe["checkpoints"] == {"every_steps": 0, "every_minutes": 5.0, "keep": 5}
    assert plan.teacher == TeacherSettings("starter")
    assert plan.recipe["distill"] == {"model": "starter", "weight": 1.0, "logit_scale": None}
    (tmp_path / "resolved.yaml").write_text(plan.yaml())
    again = read_recipe(tmp_path / "resolved.yaml")
    assert (again.checkpoints, again.teacher) == (plan.checkpoints, plan.teacher)
    bare = read_recipe(write(tmp_path, GOOD))
    assert (bare.checkpoints, bare.teacher) == (CheckpointSettings(), None)
    assert bare.recipe["distill"] is None


def test_what_is_wrong_with_a_run_is_told_together(tmp_path: Path) -> None:
    overrides = [
        "checkpoints.keep=0",
        "checkpoints.every_steps=-2",
        "distill={model: starter, weight: 0, logit_scale: -1}",
        "patience=-1",
        "trackers=[tensorbord, clearml]",
        "batch_size=1",
    ]
    with pytest.raises(ConfigError) as caught:
        read_recipe(write(tmp_path, GOOD), overrides)
    assert set(caught.value.problems) == {
        "checkpoints.keep: 0 is no number from 1 on",
        "checkpoints.every_steps: -2 is no number from 0 on",
        "distill.weight: 0.0 is no number above 0",
        "distill.logit_scale: -1.0 is no number above 0",
        "patience: -1 is less than 0",
        "trackers: 'tensorbord' is unknown; did you mean 'tensorboard'?",
        "trackers: clearml is not installed: pip install clearml",
        "batch_size: 1 is less than 2",
    }
    overrides = ["checkpoints.kep=3", "distill.modl=x", "patience=3", "trackers=5"]
    with pytest.raises(ConfigError) as caught:
        read_recipe(write(tmp_path, GOOD), overrides)
    told = "\n".join(caught.value.problems)
    for words in (
        "checkpoints.kep: unknown key; did you mean 'keep'?",
        "distill.modl: unknown key; did you mean 'model'?",
        "distill.model: ",
        "patience: needs a metric to wait for",
        "trackers: input should be",
    ):
        assert words in told
    assert len(caught.value.problems) == 5


def test_two_evaluators_of_one_name(tmp_path: Path) -> None:
    general = "general={mine: {name: retrieval, data: openmoji@test}}"
    with pytest.raises(ConfigError, match=r"general\.mine: evaluate has an entry of this name too"):
        read_recipe(write(tmp_path, GOOD), [general])


def test_every_evaluator_can_be_named(tmp_path: Path) -> None:
    """With its settings written down; what one needs and has not is a problem."""
    text = (
        GOOD
        + """
  probe: {name: linear_probe, train: openmoji@train, data: openmoji@test, every_steps: 5}
  shape: {name: geometry, data: openmoji@test}
"""
    )
    plan = read_recipe(write(tmp_path, text))
    made = {prefix: make() for _, prefix, make, _ in plan.evaluators}
    assert isinstance(made["probe"], LinearProbe)
    assert isinstance(made["shape"], Geometry)
    assert plan.recipe["evaluate"]["probe"]["validation"] is None
    assert plan.recipe["best"] == "last"  # a probe is nothing to choose by, unless it is named
    (tmp_path / "resolved.yaml").write_text(plan.yaml())
    again = read_recipe(tmp_path / "resolved.yaml", ["best=probe.top1"])
    assert again.recipe["evaluate"] == plan.recipe["evaluate"]
    assert again.selection.best == "probe.top1"
    with pytest.raises(ConfigError, match=r"evaluate\.probe\.train: is required"):
        read_recipe(write(tmp_path, text.replace("train: openmoji@train, data", "data")))
