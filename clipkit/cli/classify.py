"""`clipkit classify`: images among labels made up on the spot."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from clipkit.classify import ZeroShotClassifier

FORMATS = ("table", "csv", "jsonl")


def classify(
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or a name of `clipkit data`.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated labels; a txt, json or csv file of them; or data with classes."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="starter, another model, or a saved classifier, which has its labels."),
    ] = "starter",
    templates: Annotated[
        str | None,
        typer.Option(
            help="none, plain, simple (the default), imagenet, or a prompt with {} for the label."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Labels to show for each image.", min=1)] = 3,
    other: Annotated[
        str | None,
        typer.Option(
            help="Answer 'other' where the likeliest label has less than this probability (0.3), or"
            " where this text is nearer than the labels ('a photo')."
        ),
    ] = None,
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

    from clipkit.classify.images import as_samples
    from clipkit.classify.other import OTHER
    from clipkit.report import terminal

    samples = [one for word in images for one in as_samples(word)]
    if sample is not None and sample < len(samples):
        chosen = np.random.default_rng(0).choice(len(samples), sample, replace=False)
        samples = [samples[at] for at in sorted(chosen)]
    classifier = _classifier(model, labels, templates, other)
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
        sure = classifier.threshold_ is None or found[0][1] >= classifier.threshold_
        line["label"] = found[0][0] if sure else OTHER
        line["labels"] = dict(found)
    _print(lines, format)
    unread = [line for line in lines if "error" in line]
    if unread:
        terminal.notes().print(f"{len(unread)} of {len(lines)} images could not be read")
    if len(unread) == len(lines):
        raise DataError(f"no image could be read; the first: {unread[0]['error']}")


def _classifier(
    model: str, labels: str | None, templates: str | None, other: str | None
) -> "ZeroShotClassifier":
    """Make a classifier of labels, or read one that was saved."""
    from clipkit.classify import ZeroShotClassifier
    from clipkit.classify.files import is_classifier

    if is_classifier(Path(model)):
        given = {"--labels": labels, "--templates": templates, "--other": other}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name}: the classifier {model} was saved with its own")
        return ZeroShotClassifier.load(model)
    if labels is None or not labels.strip():
        raise ConfigError("--labels is missing: give two or more, such as --labels cat,dog")
    told = read_labels(labels)
    if isinstance(told, list) and len(told) == 1 and other is None:
        raise ConfigError(
            "--labels: there is one label only; give two or more, cat,dog, or say by --other what"
            " else there may be ('a photo')"
        )
    return ZeroShotClassifier(model, told, templates=templates or "simple", other=read_other(other))


def read_labels(labels: str) -> str | list[str]:
    """Return the labels that a text lists, or the text where it names a file or data with some."""
    from clipkit.classify.labels import LABEL_SUFFIXES
    from clipkit.data import list_manifests

    named = Path(labels).suffix.lower() in (*LABEL_SUFFIXES, ".yaml", ".yml")
    # A list may be longer than a name can be, which `Path.exists` raises for.
    there = os.path.exists(labels)  # noqa: PTH110
    if there or ("," not in labels and (named or labels in list_manifests())):
        return labels
    return [part.strip() for part in labels.split(",") if part.strip()]


def read_other(other: str | None) -> float | str | None:
    """Return the number that a text spells, else the text."""
    try:
        return None if other is None else float(other)
    except ValueError:
        return other


def _print(lines: list[dict[str, Any]], format: str) -> None:
    """Write one line an image, or in csv one line for each of its labels."""
    from clipkit.report import terminal
    from clipkit.report.score_table import percent

    if format == "jsonl":
        for line in lines:
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        return
    if format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(["image", "answer", "label", "probability", "error"])
        for line in lines:
            about = line["image"], line.get("label", "")
            for label, p in line.get("labels", {"": ""}).items():
                writer.writerow([*about, label, p, line.get("error", "")])
        return
    # An answer has a column of its own where it is not always the likeliest label.
    below = any(line["label"] not in line["labels"] for line in lines if "labels" in line)
    first = ["image", *["caption"] * any("caption" in line for line in lines), *["label"] * below]
    most = max(len(line.get("labels", "1")) for line in lines)
    columns = [{"label": "answer"}.get(name, name) for name in first]
    told = []
    for line in lines:
        words = [f"{label} {percent(p)}" for label, p in line.get("labels", {}).items()]
        cells = [line.get(name, "") for name in first] + (words or [line["error"]])
        told.append(cells + [""] * (len(first) + most - len(cells)))
    terminal.out().print(terminal.rows([*columns, *(f"{n + 1}." for n in range(most))], told))
