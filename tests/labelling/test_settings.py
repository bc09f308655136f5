from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.labelling.settings import PseudoLabelSettings
from clipkit.labelling.write import Rule
from clipkit.recipe import read_recipe
from tests.recipe.good import write

RECIPE = """
data: {train: openmoji@train}
evaluate:
  held_out: {name: zero_shot, data: openmoji@test}
pseudo_labels: {data: openmoji@test, metric: held_out.top1, min_confidence: 0.8}
"""


def test_a_section_of_a_recipe(tmp_path: Path) -> None:
    plan = read_recipe(write(tmp_path, RECIPE))
    assert plan.pseudo_labels == PseudoLabelSettings(
        "openmoji@test", "held_out.top1", min_confidence=0.8
    )
    assert plan.pseudo_labels.rule == Rule(min_confidence=0.8)
    assert plan.recipe["pseudo_labels"]["rounds"] == 3
    assert read_recipe(write(tmp_path, plan.yaml())).recipe == plan.recipe
    assert read_recipe(write(tmp_path, RECIPE), ["pseudo_labels=null"]).pseudo_labels is None


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    changes = [
        f"pseudo_labels.{change}"
        for change in (
            "rounds=0",
            "min_confidence=2",
            "weight=0",
            "templates=simpel",
            "top_per_class=-1",
        )
    ]
    with pytest.raises(ConfigError) as caught:
        read_recipe(write(tmp_path, RECIPE), [*changes, "pseudo_labels.metric=held.top1"])
    told = "\n".join(caught.value.problems)
    for words in (
        "pseudo_labels.rounds: 0 is less than 1",
        "pseudo_labels.min_confidence is a probability from 0 to 1, not 2",
        "pseudo_labels.weight: 0.0 is no number above 0",
        "pseudo_labels.templates: 'simpel' is no named set",
        "pseudo_labels.metric: 'held.top1' starts with no name of evaluate",
    ):
        assert words in told
    with pytest.raises(ConfigError, match=r"pseudo_labels.labelled: input should be 'skip'"):
        read_recipe(write(tmp_path, RECIPE), ["pseudo_labels.labelled=kept"])
