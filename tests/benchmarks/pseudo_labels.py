"""What pictures without labels gain: zero-shot, fitted on a few, and after each round of training.

    python -m tests.benchmarks.pseudo_labels FOLDER [--each 5] [--rule min_confidence=0.5]

The folder has `train`, `validation` and `test`, each with a folder per class. So many pictures of
each class of `train` keep their label, drawn by a seed; the others lose theirs. The recipe
`pseudo_labels` is trained by each rule, the one whose best round is best on `validation` is taken,
and all of its rounds are scored on `test`. Intervals are bootstrapped over the test images.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow.parquet as pq

import clipkit
from clipkit.models import DualEncoder, load
from clipkit.run import TrainResult
from tests.benchmarks.few_shot import encoded, interval

RULES = ["min_confidence=0.5", "min_confidence=0.8", "top_per_class=32"]


def split(train: Path, out: Path, each: int, seed: int) -> None:
    """Link a few pictures of each class into `few/CLASS`, and the others into `rest`."""
    rng = np.random.default_rng(seed)
    (out / "rest").mkdir(parents=True)
    for folder in sorted(path for path in train.iterdir() if path.is_dir()):
        (out / "few" / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        chosen = set(rng.choice(len(files), each, replace=False).tolist())
        for number, file in enumerate(files):
            place = f"few/{folder.name}/" if number in chosen else f"rest/{folder.name}--"
            (out / f"{place}{file.name}").symlink_to(file.resolve())


def right(model: DualEncoder | str, data: str) -> np.ndarray:
    """Return which images a model names right, by the prompt that it was trained with."""
    loaded = load(model) if isinstance(model, str) else model
    images, truth = encoded(loaded, data)
    labels = sorted(set(truth))
    found = clipkit.ZeroShotClassifier(loaded, labels, templates="plain").predict(images)
    return np.asarray(found == truth)


def trained(folder: Path, parts: Path, rule: str, changes: list[str]) -> TrainResult:
    """Train by one rule."""
    validation = folder / "validation"
    return clipkit.train(
        "pseudo_labels",
        [
            f"data.train={parts / 'few'}",
            f"pseudo_labels.data={parts / 'rest'}",
            f"pseudo_labels.calibrate={validation}",
            f"evaluate.held_out.data={validation}",
            f"evaluate.geometry.data={validation}",
            "pseudo_labels.min_confidence=null",
            f"pseudo_labels.{rule}",
            "general={}",
            f"out={parts / rule}",
            *changes,
        ],
    )


def labels_of(run: Path, number: int) -> str:
    """Say how many pictures have a label in a round, and how many of these are right."""
    rows = pq.read_table(run / f"labels-{number}" / "labels.parquet").to_pylist()
    good = sum(row["id"].startswith(f"{row['label']}--") for row in rows)
    return f"{len(rows)} pseudo-labels, {100 * good / len(rows):.1f} % of them right"


def gap(run: TrainResult) -> str:
    """Say how far pictures of other labels are beyond those of the same, before and after."""
    found = [run.metrics[when]["data"]["geometry"] for when in ("before", "after")]
    return " to ".join(f"{one['d_negative'] - one['d_positive']:.3f}" for one in found)


def main() -> None:
    """Train and score."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rule", action="append")
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    options = parser.parse_args()
    out = sys.stdout.write
    test = str(options.folder / "test")
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.seeds):
            parts = (options.out or Path(temporary)) / f"seed-{seed}"
            if not parts.exists():
                split(options.folder / "train", parts, options.each, seed)
            changes = [f"model={options.model}", *options.set]
            runs = {
                rule: trained(options.folder, parts, rule, changes)
                for rule in options.rule or RULES
            }
            out(f"seed {seed}, {options.each} labelled pictures of each class\n")
            for rule, run in runs.items():
                values = [f"{100 * one['metric']:.1f}" for one in run.metrics["rounds"]]
                out(f"  validation, {rule}: {' '.join(values)}; {run.metrics['stopped']}\n")
            rule, best = max(
                runs.items(), key=lambda item: max(r["metric"] for r in item[1].metrics["rounds"])
            )
            out(f"  taken by validation: {rule}; on the test images:\n")
            out(f"  d- minus d+ on validation, by picture: {gap(best)}\n")
            out(f"  zero-shot: {interval(right(options.model, test))}\n")
            model = load(options.model)
            images, truth = encoded(model, test)
            classifier = clipkit.ZeroShotClassifier(model, sorted(set(truth)))
            fitted = classifier.fit(*encoded(model, str(parts / "few")))
            out(f"  fitted on the few: {interval(fitted.predict(images) == truth)}\n")
            for number, _ in enumerate(best.metrics["rounds"]):
                about = labels_of(best.folder, number) if number else "the labelled alone"
                kept = " (kept)" * (number == best.metrics["kept_round"])
                found = interval(right(str(best.folder / f"round-{number}" / "model"), test))
                out(f"  round {number}{kept}: {found}; {about}\n")


if __name__ == "__main__":
    main()
