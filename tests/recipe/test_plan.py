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


def test_several_data_sets_each_for_what_it_can_be(
    photos: Path, classes: Path, tmp_path: Path
) -> None:
    """Captions, labels that become captions, and pictures alone."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in photos.glob("red*.png"):
        (bare / path.name).write_bytes(path.read_bytes())
    overrides = [
        f"data.train={photos}",
        "data.sample=0.5",
        f"also.labelled.train={classes}",
        "also.labelled.weight=2",
        f"also.pictures.train={bare}",
        "views.weight=0.5",
    ]
    sources = read_recipe(write(tmp_path, GOOD), overrides).load_sources()
    assert len(sources.data) == 9 + 12 + 3
    assert sources.rows("pairs").tolist() == list(range(21))
    assert sources.rows("views").tolist() == list(range(24))
    assert [some.tolist() for some in sources.weights(sources.rows("pairs"))] == [
        [1.0] * 9,
        [2.0] * 12,
    ]
    assert sources.data[9].captions[0].startswith("a photo of a ")
    only = [*overrides, "also.labelled.objectives=[views]"]
    told = read_recipe(write(tmp_path, GOOD), only).load_sources()
    assert told.rows("pairs").tolist() == list(range(9))
    alone = [*overrides[:4], "views=null"]
    assert len(read_recipe(write(tmp_path, GOOD), alone).load_sources().rows("views")) == 0
