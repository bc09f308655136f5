"""`clipkit eval`: how good a model is on labelled or captioned data."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from clipkit.data import Rejects
    from clipkit.data.dataset import Dataset
    from clipkit.evaluate import Retrieval, ZeroShot

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
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
) -> None:
    """Score a model: retrieval where there are captions, zero-shot where there are labels."""
    if task is not None and task not in TASKS:
        raise ConfigError(f"--task {task!r} is unknown{did_you_mean(task, TASKS)}")
    from clipkit.data import Rejects, load_data
    from clipkit.evaluate.encoder import DirectEncoder
    from clipkit.models import load
    from clipkit.report import terminal

    encoder = load(model)
    metrics: dict[str, dict[str, float]] = {}
    fingerprints = {}
    rejects = Rejects(max_rejected)
    with terminal.Bars() as bars:
        direct = DirectEncoder(max_rejected=max_rejected, keep=True, report=bars.show)
        for name in data:
            dataset = load_data(name, progress=bars.follow("drawing pictures"))
            rejects.rows += dataset.rejects
            fingerprints[name] = dataset.fingerprint()
            for prefix, evaluator in evaluators(name, dataset, task, templates).items():
                metrics[prefix] = evaluator(encoder, direct)
    rejects.rows += direct.rejects.values()
    terminal.out().print(terminal.scores(metrics))
    content = {"model": encoder.fingerprint(), "data": fingerprints, "metrics": metrics}
    tell(content, rejects, out)


def evaluators(
    name: str, dataset: "Dataset", task: str | None = None, templates: str | None = None
) -> "dict[str, Retrieval | ZeroShot]":
    """Return what scores a model on a data set, by the prefix of its metrics.

    Args:
        name: of the data set, as it was given.
        dataset: captions ask for retrieval, two labels or more for zero-shot.
        task: only this of the two.
        templates: prompts of zero-shot.

    Raises:
        DataError: when it has nothing to be scored on.
    """
    from clipkit.evaluate import Retrieval, ZeroShot

    found: dict[str, Retrieval | ZeroShot] = {}
    labels = {sample.label for sample in dataset if sample.label is not None}
    if task != "zero_shot" and any(sample.captions for sample in dataset):
        found[f"{name} retrieval"] = Retrieval(data=dataset)
    if task != "retrieval" and len(labels) > 1:
        found[f"{name} zero_shot"] = ZeroShot(data=dataset, templates=templates)
    if not found:
        raise DataError(f"{name} has neither captions nor labels that {task or 'it'} needs")
    return found


def tell(content: dict[str, Any], rejects: "Rejects", out: Path | None) -> None:
    """Say what was rejected, and write scores to a file.

    Args:
        content: the scores, and what they are of.
        rejects: rows that were not scored; listed beside the file.
        out: the file; nothing is written when `None`.
    """
    from clipkit.report import terminal

    if len(rejects):
        terminal.out().print(rejects.summary(), markup=False, soft_wrap=True)
    if out is None:
        return
    content = {**content, "rejected": dict(rejects.reasons())}
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    terminal.out().print(f"scores  {out}", markup=False)
    if len(rejects):
        listed = out.with_name("rejects.jsonl")
        rejects.write(listed)
        terminal.out().print(f"every rejected row: {listed}", markup=False)
