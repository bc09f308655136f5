"""What a recipe says of views and of further data."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clipkit.errors import ConfigError
from clipkit.losses import MoCoLoss, NTXentLoss
from clipkit.recipe import read_recipe
from clipkit.recipe.plan import Plan


def read(tmp_path: Path, **sections: Any) -> Plan:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": {"train": "photos"}, **sections}))
    return read_recipe(path)


def problems(tmp_path: Path, **sections: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, **sections)
    return list(refused.value.problems)


def test_names_alone_will_do(tmp_path: Path) -> None:
    plan = read(tmp_path, views={})
    assert plan.make_views is not None
    views = plan.make_views()
    assert isinstance(views.loss, NTXentLoss)
    assert plan.recipe["views"]["loss"] == {
        "name": "ntxent",
        "temperature": None,
        "chunk_size": views.loss.chunk_size,
    }
    assert plan.recipe["views"]["augment"]["min_scale"] == 0.08
    assert plan.recipe["views"]["weight"] == 1.0


def test_the_resolved_recipe_repeats_the_run(tmp_path: Path) -> None:
    given = {"loss": {"name": "moco", "queue_size": 64}, "head_hidden": 8, "momentum": 0.9}
    plan = read(tmp_path, loss=None, views=given, also={"more": {"train": "x", "weight": 0.5}})
    assert plan.make_loss is None
    assert plan.make_views is not None
    made = plan.make_views().loss
    assert isinstance(made, MoCoLoss)
    assert made.queue.features.shape == (64, 128)  # the head's width
    assert plan.also["more"].weight == 0.5
    (tmp_path / "again.yaml").write_text(plan.yaml())
    assert read_recipe(tmp_path / "again.yaml").recipe == plan.recipe


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    views = {
        "loss": {"name": "ntxant", "temperature": 0.1},
        "augment": {"min_scle": 0.2},
        "wieght": 2,
    }
    also = {"more": {"train": "x", "weigt": 1}, "bad/name": {"train": "y"}, "none": {}}
    told = "\n".join(problems(tmp_path, views=views, also=also))
    for said in (
        "views.wieght: unknown key",
        "views.loss.name: 'ntxant' is unknown; did you mean 'ntxent'?",
        "views.augment.min_scle: unknown key",
        "also.more.weigt: unknown key",
        "also: 'bad/name' cannot be the name of a data set here",
        "also.none.train: is required",
    ):
        assert said in told


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loss": None}, "loss: is null and there are no views"),
        (
            {"views": {"loss": "moco", "head_hidden": 8}},
            "views.momentum: is null, and moco needs one",
        ),
        (
            {"loss": None, "views": {}, "neighbours": {}},
            "neighbours: is of pictures with captions, and loss is null",
        ),
        (
            {"loss": None, "views": {}, "distill": {"model": "starter"}},
            "distill: is of pictures with captions, and loss is null",
        ),
        (
            {"also": {"more": {"train": "x", "objectives": ["views"]}}},
            "also.more.objectives: views, which the run has no loss of",
        ),
        (
            {"loss": None, "views": {}, "data": {"train": "x", "objectives": ["pairs"]}},
            "data.objectives: pairs, which the run has no loss of",
        ),
        ({"views": 3}, "views: input should be a valid dictionary"),
        ({"views": {"weight": 0}}, "views.weight: 0.0 is no number above 0"),
        ({"views": {"augment": {"hue": 0.7}}}, "views.augment.hue: 0.7 is not from 0 to 0.5"),
        ({"also": {"more": {"train": "x", "weight": -1}}}, "also.more.weight: -1.0 is no number"),
        (
            {"also": {"more": {"train": "x", "long_captions": "head"}}},
            "also.more.long_captions: is that of data",
        ),
        ({"data": {"train": "x", "objectives": []}}, "data.objectives: is empty"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    assert any(problem.startswith(said) for problem in problems(tmp_path, **sections))
