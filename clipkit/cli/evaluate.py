"""`clipkit eval`: how good a model is on labelled or captioned data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from clipkit.errors import ConfigError, DataError, did_you_mean

TASKS = ("retrieval", "zero_shot")


def evaluate(
    model: Annotated[str, typer.Argument(help="starter, or a folder that clipkit wrote.")],
    data: Annotated[
        list[str],
        typer.Option(help="A name of `clipkit data`, a manifest, a table or a folder; repeatable."),
    ],
    task: Annotated[
        str | None,
        typer.Option(help="retrieval or zero_shot; what captions and labels allow when absent."),
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts of zero_shot: none, plain, simple, imagenet.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file.")] = None,
) -> None:
    """Score a model: retrieval where there are captions, zero-shot where there are labels."""
    if task is not None and task not in TASKS:
        raise ConfigError(f"--task {task!r} is unknown{did_you_mean(task, TASKS)}")
    from clipkit.data import load_data
    from clipkit.evaluate import Retrieval, ZeroShot
    from clipkit.models import load
    from clipkit.report import terminal

    encoder = load(model)
    metrics: dict[str, dict[str, float]] = {}
    fingerprints = {}
    with terminal.bars() as follow:
        for name in data:
            dataset = load_data(name, progress=follow("drawing pictures"))
            fingerprints[name] = dataset.fingerprint()
            labels = {sample.label for sample in dataset if sample.label is not None}
            if task != "zero_shot" and any(sample.captions for sample in dataset):
                metrics[f"{name} retrieval"] = Retrieval(data=dataset)(encoder)
            if task != "retrieval" and len(labels) > 1:
                scores = ZeroShot(data=dataset, templates=templates)(encoder)
                metrics[f"{name} zero_shot"] = scores
            if not any(key.startswith(f"{name} ") for key in metrics):
                raise DataError(f"{name} has neither captions nor labels that {task or 'it'} needs")
    terminal.out().print(terminal.scores(metrics))
    if out is not None:
        content = {"model": encoder.fingerprint(), "data": fingerprints, "metrics": metrics}
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        terminal.out().print(f"scores  {out}")
