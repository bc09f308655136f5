from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.packages import shipped_folder
from clipkit.recipe import find_recipe, read_recipe
from tests.recipe.good import GOOD, write


@pytest.mark.parametrize("path", sorted(shipped_folder("recipes").glob("*.yaml")), ids=str)
def test_every_recipe_that_ships_is_right(path: Path) -> None:
    plan = read_recipe(path.stem)
    head = path.read_text().split("\nmodel:")[0]
    assert f"clipkit train {path.stem}" in head
    assert "Needs:" in head
    assert "Time:" in head
    assert "TIME" not in head
    assert plan.settings.batch_size > 1


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    plan = read_recipe(
        write(tmp_path, GOOD), ["optim.lr=1e-4", "augment=true", "evaluate.mine.ks=[1, 3]"]
    )
    assert plan.optim.lr == 1e-4
    assert plan.settings.augment is True
    assert plan.recipe["evaluate"]["mine"]["ks"] == [1, 3]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("trainable=projection", "did you mean 'projections'"),
        ("trainable.name=lorra", "trainable.name: 'lorra' is unknown; did you mean 'lora'"),
        ("trainable={name: lora, rnk: 4}", "trainable.rnk: unknown key; did you mean 'rank'"),
        ("trainable={name: lora, rank: 0}", "trainable.rank: 0 is less than 1"),
        ("trainable={name: lora, towers: [txt]}", "trainable.towers: input should be"),
        ("trainable={name: last_blocks, n: many}", "trainable.n: input should be a valid integer"),
        ("trainable={rank: 4}", "trainable: needs a name; known: all, image_tower, last_blocks"),
        ("trainable={name: all, n: 1}", "trainable.n: unknown key"),
        ("save.adapters=apart", "save.adapters: input should be 'alone' or 'merged'"),
        ("optim.schedule=cosin", "did you mean 'cosine'"),
        ("batch_size=1", "batch_size: 1 is less than 2"),
        ("epochs=-1", "epochs: -1 is less than 0"),
        ("loss=clop", "loss.name: 'clop' is unknown"),
        ("loss=no.such.module:Name", "is unknown"),
        ("best=other.top1", "starts with no evaluator"),
        ("precision=fp8", "precision"),
        ("data.train=", "data.train"),
        ("evaluate.mine.every_steps=often", "every_steps"),
        ("nonsense", "is no override"),
        ("data.train.deep=3", "train is no section"),
        ("colour=red", "colour: unknown key"),
        ("model.name=starter_tower", "did you mean 'starter_towers'"),
        ("class_directions.wieght=1", "did you mean 'weight'"),
    ],
)
def test_what_an_override_may_get_wrong(tmp_path: Path, change: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        read_recipe(write(tmp_path, GOOD), [change])


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    for text, word in (("[1]", "holds list"), ("a: [", "no YAML"), ("model: starter", "data: ")):
        with pytest.raises(ConfigError, match=word):
            read_recipe(write(tmp_path, text))
    with pytest.raises(ConfigError, match="did you mean 'openmoji'"):
        read_recipe("openmojy")
    assert find_recipe("recipes/openmoji.yaml").resolve() == find_recipe("openmoji").resolve()
