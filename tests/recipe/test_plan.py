from pathlib import Path

from clipkit.losses import ClipLoss
from clipkit.recipe import read_recipe
from tests.recipe.good import BOTH, GOOD, write


def test_the_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    first = read_recipe(write(tmp_path, GOOD), ["epochs=3", "loss.label_smoothing=0.1"])
    (tmp_path / "resolved.yaml").write_text(first.yaml())
    again = read_recipe(tmp_path / "resolved.yaml")
    assert again.recipe == first.recipe
    assert again.settings.epochs == 3
    assert again.make_loss is not None
    loss = again.make_loss()
    assert isinstance(loss, ClipLoss)
    assert loss.label_smoothing == 0.1
    assert again.recipe["optim"]["warmup_steps"] == 20
    assert again.recipe["out"] == "runs/mine"


def test_what_may_change_in_a_run_that_goes_on(tmp_path: Path) -> None:
    before = read_recipe(write(tmp_path, BOTH)).yaml()
    harmless = ["checkpoints.keep=7", "workers=1", "out=elsewhere", "trackers=[tensorboard]"]
    assert read_recipe(write(tmp_path, BOTH), harmless).differences(before) == []
    changes = ["patience=2", "distill.model=starter", "best=second.mean_recall"]
    found = read_recipe(write(tmp_path, BOTH), changes).differences(before)
    assert {line.partition(":")[0] for line in found} >= {"patience", "best", "distill.model"}
