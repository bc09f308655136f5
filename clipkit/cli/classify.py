"""`clipkit classify`: images among labels made up on the spot."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.errors import ConfigError, DataError, did_you_mean

FORMATS = ("table", "csv", "jsonl")


def classify(
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or a name of `clipkit data`.")
    ],
    labels: Annotated[
        str, typer.Option(help="Comma-separated labels, or a txt, json or csv file of them.")
    ],
    model: Annotated[
        str, typer.Option(help="starter, or a folder that clipkit wrote.")
    ] = "starter",
    templates: Annotated[
        str, typer.Option(help="none, plain, simple, imagenet, or a prompt with {} for the label.")
    ] = "simple",
    top: Annotated[int, typer.Option(help="Labels to show for each image.", min=1)] = 3,
    sample: Annotated[
        int | None, typer.Option(help="Only so many images, taken at random.", min=1)
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="table, csv or jsonl; a table on a terminal, jsonl in a pipe."),
    ] = None,
) -> None:
    """Classify images among labels that the model never saw as labels."""
    format = format or ("table" if sys.stdout.isatty() else "jsonl")
    if format not in FORMATS:
        raise ConfigError(f"--format {format!r} is unknown{did_you_mean(format, FORMATS)}")
    import numpy as np

    from clipkit.classify import ZeroShotClassifier
    from clipkit.classify.images import as_samples
    from clipkit.classify.labels import LABEL_SUFFIXES
    from clipkit.report import terminal

    given: Path | list[str] = [part.strip() for part in labels.split(",") if part.strip()]
    if Path(labels).is_file() or ("," not in labels and labels.endswith(LABEL_SUFFIXES)):
        given = Path(labels)
    samples = [one for word in images for one in as_samples(word)]
    if sample is not None and sample < len(samples):
        chosen = np.random.default_rng(0).choice(len(samples), sample, replace=False)
        samples = [samples[at] for at in sorted(chosen)]
    classifier = ZeroShotClassifier(model, given, templates=templates)
    if len(classifier.classes_) < 2:
        raise ConfigError("--labels: there is one label only; give two or more, cat,dog")
    with terminal.bars() as follow:
        proba = classifier.predict_proba(samples, progress=follow("images"))
    rejects = iter(classifier.rejects_)  # in the order of the images
    best = (-proba).argsort(1, kind="stable")[:, :top]
    lines: list[dict[str, Any]] = []
    for at, one in enumerate(samples):
        about = one.captions[0] if one.captions else one.label
        line: dict[str, Any] = {"image": one.id} | ({"caption": about} if about else {})
        lines.append(line)
        if np.isnan(proba[at, 0]):
            line["error"] = next(rejects).reason
            continue
        found = [(str(classifier.classes_[c]), float(proba[at, c])) for c in best[at]]
        line["labels"] = dict(found)
    _print(lines, format)
    unread = [line for line in lines if "error" in line]
    if unread:
        terminal.notes().print(f"{len(unread)} of {len(lines)} images could not be read")
    if len(unread) == len(lines):
        raise DataError(f"no image could be read; the first: {unread[0]['error']}")


def _print(lines: list[dict[str, Any]], format: str) -> None:
    """Write one line an image, or in csv one line for each of its labels."""
    from clipkit.report import terminal

    if format == "jsonl":
        for line in lines:
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        return
    if format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(["image", "label", "probability", "error"])
        for line in lines:
            error = line.get("error", "")
            for label, p in line.get("labels", {"": ""}).items():
                writer.writerow([line["image"], label, p, error])
        return
    told = []
    for line in lines:
        pairs = line.get("labels", {}).items()
        words = [f"{label} {terminal.percent(p)}" for label, p in pairs]
        told.append([line["image"], line.get("caption", ""), *(words or [line["error"]])])
    width = max(map(len, told))
    columns = ["image", "caption", *(f"{n}." for n in range(1, width - 1))]
    told = [line + [""] * (width - len(line)) for line in told]
    if not any(line[1] for line in told):
        told, columns = [[line[0], *line[2:]] for line in told], ["image", *columns[2:]]
    terminal.out().print(terminal.rows(columns, told))
