"""Every recipe that ships runs, shortened: a new one is found here by itself."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

import clipkit
from clipkit.cli.recipes import read_head
from clipkit.data.openmoji import draw, list_emoji
from clipkit.models import load
from clipkit.packages import shipped_folder
from clipkit.recipe import read_recipe

RECIPES = sorted(shipped_folder("recipes").glob("*.yaml"))
SLOW = {"starter"}  # it has the 1,000 classes of ImageNet encoded
LABELLED = {"labels", "pseudo_labels"}  # these make captions of labels
PICTURES = 12


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """A few emoji of three sub-groups: file, name, sub-group."""
    folder = tmp_path_factory.mktemp("emoji")
    groups = ("food-fruit", "animal-bird", "clothing")
    chosen = [
        one
        for group in groups
        for one in [one for one in list_emoji() if one.label == group][: PICTURES // len(groups)]
    ]
    draw([(one.svg, folder / f"{one.code}.png") for one in chosen], 224, None)
    return [(folder / f"{one.code}.png", one.name, str(one.label)) for one in chosen]


@pytest.fixture
def table(emoji: list[tuple[Path, str, str]], tmp_path: Path) -> Path:
    """The emoji as a table with captions and labels."""
    path = tmp_path / "emoji.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "caption", "label"), *emoji])
    return path


@pytest.fixture
def classes(emoji: list[tuple[Path, str, str]], tmp_path: Path) -> Path:
    """The emoji in a folder per sub-group, without captions."""
    for path, _, label in emoji:
        (tmp_path / "classes" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes" / label / path.name).symlink_to(path)
    return tmp_path / "classes"


@pytest.fixture
def unlabelled(emoji: list[tuple[Path, str, str]], tmp_path: Path) -> Path:
    """Other pictures in a folder, without captions and labels: the emoji on their heads."""
    (tmp_path / "unlabelled").mkdir()
    for path, _, _ in emoji:
        with Image.open(path) as picture:
            picture.rotate(180).save(tmp_path / "unlabelled" / path.name)
    return tmp_path / "unlabelled"


@pytest.fixture(autouse=True)
def flickr8k(
    emoji: list[tuple[Path, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the emoji stand for Flickr8k, which nobody may pass on."""
    folder = tmp_path / "flickr8k"
    (folder / "images").mkdir(parents=True)
    for path, _, _ in emoji:
        (folder / "images" / path.name).symlink_to(path)
    with (folder / "captions.csv").open("w", newline="") as stream:
        told = [(path.name, name) for path, name, _ in emoji]
        csv.writer(stream).writerows([("image", "caption"), *told])
    for split in ("train", "dev", "test"):
        (folder / f"{split}.txt").write_text("\n".join(path.name for path, _, _ in emoji))
    monkeypatch.setenv("FLICKR8K", str(folder))


def test_the_recipes_are_found() -> None:
    assert {"openmoji", "starter"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in SLOW), id=p.stem) for p in RECIPES],
)
def test_it_runs(path: Path, table: Path, classes: Path, unlabelled: Path, tmp_path: Path) -> None:
    plan = read_recipe(path)
    data = classes if path.stem in LABELLED else table
    changes = ["epochs=1", "batch_size=4", "optim.warmup_steps=1", f"out={tmp_path / 'run'}"]
    changes += ["general={}"]
    if "flickr8k" not in plan.data.train:
        changes += [f"data.train={data}"]
        changes += [f"also.{name}.train={data}" for name in plan.also]
        changes += ["data.sample=1.0"]
        for prefix, spec in plan.recipe["evaluate"].items():
            changes += [
                f"evaluate.{prefix}.{key}={data}" for key in ("data", "train") if key in spec
            ]
    if plan.settings.micro_batch_size:
        changes += ["micro_batch_size=2"]
    if plan.teacher is not None:
        changes += ["distill.model=starter"]
    if plan.pseudo_labels is not None:
        changes += [f"pseudo_labels.data={unlabelled}", f"pseudo_labels.calibrate={data}"]
        changes += ["pseudo_labels.min_confidence=0"]
    result = clipkit.train(path, changes)

    rows = 1 if plan.pseudo_labels is None or not result.metrics["kept_round"] else 2
    assert PICTURES / 4 <= result.metrics["steps"] <= rows * PICTURES / 4
    if plan.pseudo_labels is not None:
        counts = [one["counts"]["labels"] for one in result.metrics["rounds"][1:]]
        assert counts and all(sum(count.values()) == PICTURES for count in counts)
    assert set(result.metrics["after"]["data"]) == set(plan.recipe["evaluate"])
    torch.manual_seed(plan.settings.seed)  # of towers that know nothing yet
    before, after = plan.make_model(), load(result.folder / "model")
    assert after.fingerprint() == result.model.fingerprint()
    loss = plan.recipe["loss"]
    assert after.similarity == ("sigmoid" if loss and loss["name"] == "siglip" else "softmax")
    size = after.preprocessing.size
    images, tokens = torch.randn(2, 3, size, size), after.tokenize(["a red apple", "a bird"])
    for tower, given in (("image_tower", images), ("text_tower", tokens)):
        with torch.inference_mode():
            moved = not torch.equal(
                before.get_submodule(tower)(given), after.get_submodule(tower)(given)
            )
        assert moved == (result.metrics["parameters"][tower]["trained"] > 0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_command_names_it_and_it_writes_to_its_own_folder(path: Path) -> None:
    assert f"clipkit train {path.stem}" in read_head(path).command
    assert read_recipe(path).settings.out == f"runs/{path.stem}"
