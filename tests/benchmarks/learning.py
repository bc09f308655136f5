"""What contrast without captions, with few, with labels and with hard negatives comes to.

    python -m tests.benchmarks.learning ssl slip hard_negatives --out runs/learning

Each line of a table is a recipe with changes, run with each seed; a run that is there already is
read. Mean over the seeds, and the lowest and highest in brackets.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from torch import nn

import clipkit
from clipkit.evaluate import LinearProbe
from clipkit.models import DualEncoder
from clipkit.recipe import read_recipe


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        what: how the table calls it.
        recipe: that is run.
        changes: of it.
    """

    what: str
    recipe: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What is run and what is told of it.

    Attributes:
        lines: the runs.
        metrics: of each, `prefix.metric`; the distances of the geometry are told besides.
        untrained: tell the metrics before training too, and of the first line's pixels.
    """

    lines: tuple[Line, ...]
    metrics: tuple[str, ...]
    untrained: bool = False


RECALLS = ("openmoji.text_to_image_r1", "openmoji.image_to_text_r1")
NAMES = ("views=null", "also={}", "data.objectives=null")
TABLES = {
    "ssl": Table(
        (
            Line("SimCLR", "openmoji_simclr"),
            Line("MoCo", "openmoji_moco"),
            Line("SupCon, with labels", "openmoji_supcon"),
        ),
        ("probe.top1",),
        untrained=True,
    ),
    "slip": Table(
        (
            Line("names of all: CLIP", "openmoji_slip", ("data.sample=1.0", *NAMES)),
            Line("names of all: SLIP", "openmoji_slip", ("data.sample=1.0",)),
            Line("names of a tenth: CLIP", "openmoji_slip", NAMES),
            Line("names of a tenth: SLIP", "openmoji_slip"),
        ),
        (*RECALLS, "openmoji.mean_recall"),
    ),
    "hard_negatives": Table(
        (
            Line("random batches", "openmoji_hard_negatives", ("neighbours=null",)),
            Line("neighbours by picture", "openmoji_hard_negatives"),
            Line("neighbours by name", "openmoji_hard_negatives", ("neighbours.by=text",)),
            Line(
                "random batches, hardest negative alone",
                "openmoji_hard_negatives",
                ("neighbours=null", "loss=hardest_negative"),
            ),
        ),
        RECALLS,
    ),
}
STEPS = {"slip": 240}
"""Steps of each run of a table whose data sets have different sizes."""


def run(line: Line, seed: int, folder: Path, extra: list[str], steps: int | None) -> Path:
    """Run a line with a seed, unless it was; return the run folder."""
    name = "".join(c if c.isalnum() else "_" for c in f"{line.what} {seed}")
    changes = [*line.changes, f"seed={seed}", f"out={folder / name}", *extra]
    if steps is not None:
        changes.append(f"epochs={_epochs(line, changes, steps)}")
    clipkit.train(line.recipe, changes)
    return folder / name


def _epochs(line: Line, changes: list[str], steps: int) -> int:
    """Return the epochs that so many steps are."""
    plan = read_recipe(line.recipe, changes)
    sources = plan.load_sources()
    rows = [len(sources.rows("pairs"))] if plan.make_loss is not None else []
    rows += [len(sources.rows("views"))] if plan.make_views is not None else []
    return max(1, round(steps / max(1, max(rows) // plan.settings.batch_size)))


def pixels(recipe: str) -> float:
    """Return what a linear probe of the pixels themselves, 32 x 32 of them, comes to."""
    plan = read_recipe(recipe)
    model: DualEncoder = plan.make_model()
    model.image_tower = nn.Sequential(nn.AdaptiveAvgPool2d(32), nn.Flatten())
    spec = plan.recipe["evaluate"]["probe"]
    probe = LinearProbe(train=spec["train"], data=spec["data"], features="tower")
    return probe(model.eval())["top1"]


def shares(values: list[float]) -> str:
    """Say a mean and its range, in percent."""
    return f"{100 * mean(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


def gap(scores: list[dict[str, dict[str, float]]]) -> str:
    """Say how far negatives are beyond positives, in the mean."""
    found = [some["geometry"]["d_negative"] - some["geometry"]["d_positive"] for some in scores]
    return f"{mean(found):.3f}"


def table(which: str, seeds: list[int], folder: Path, extra: list[str]) -> Iterator[str]:
    """Run a table; yield its lines in Markdown as they are known."""
    made = TABLES[which]
    yield f"| {which} | {' | '.join(made.metrics)} | d- minus d+ before | after |"
    yield f"|---{'|---' * len(made.metrics)}|---|---|"
    before = []
    for line in made.lines:
        runs = [run(line, seed, folder, extra, STEPS.get(which)) for seed in seeds]
        told = [json.loads((path / "metrics.json").read_text()) for path in runs]
        scores = [{when: some[when]["data"] for when in ("before", "after")} for some in told]
        before += [some["before"] for some in scores]
        cells = [_cell([some["after"] for some in scores], metric) for metric in made.metrics]
        gaps = [gap([some[when] for some in scores]) for when in ("before", "after")]
        yield f"| {line.what} | {' | '.join([*cells, *gaps])} |"
    if made.untrained:
        cells = [_cell(before[: len(seeds)], metric) for metric in made.metrics]
        yield f"| untrained tower | {' | '.join(cells)} | | |"
        yield f"| pixels | {shares([pixels(made.lines[0].recipe)])} | | |"


def _cell(scores: list[dict[str, dict[str, float]]], metric: str) -> str:
    prefix, _, name = metric.partition(".")
    return shares([some[prefix][name] for some in scores])


def main() -> None:
    """Run the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--change", action="append", default=[], help="of every recipe")
    given = parser.parse_args()
    for which in given.tables:
        for line in table(which, given.seeds, given.out / which, given.change):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
