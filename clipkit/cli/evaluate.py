"""`clipkit eval`: how good models are on labelled or captioned data."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from clipkit.data import Rejects

FORMATS = ("table", "markdown", "json")


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="starter, a folder that clipkit wrote, open_clip:… or hf:…; several."),
    ],
    data: Annotated[
        list[str],
        typer.Option(help="A name of `clipkit data`, a manifest, a table or a folder; repeatable."),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="retrieval, zero_shot, linear_probe or geometry; repeatable. Without it, retrieval"
            " where there are captions and zero_shot where there are labels."
        ),
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts of zero_shot: none, plain, simple, imagenet.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="Labelled data that linear_probe is fitted on.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Labelled data that its penalty is chosen on; a fifth of --train if not given."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="table, markdown or json.")] = "table",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the scores to this JSON file, each as soon as it is there: the same command"
            " goes on where it was stopped."
        ),
    ] = None,
    details: Annotated[
        Path | None,
        typer.Option(
            help="Write into this folder, for zero_shot and linear_probe, tables of each class,"
            " each confusion, each image and each prompt."
        ),
    ] = None,
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
) -> None:
    """Score models on data: retrieval by captions, zero-shot by labels, and more.

    Below a value are the ends of its 95 % interval: it is what this many images can tell.

    What fails is told and the rest goes on; the exit code is then 1.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format {format!r} is unknown{did_you_mean(format, FORMATS)}")
    from clipkit.data import Rejects
    from clipkit.evaluate import run
    from clipkit.report import score_table, terminal

    with terminal.Bars() as bars:
        found = run.evaluate(
            models,
            data,
            task=task,
            templates=templates,
            train=train,
            validation=validation,
            max_rejected=max_rejected,
            out=out,
            details=details,
            progress=bars.show,
        )
    content = found.content()
    if format == "json":
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    elif format == "markdown":
        sys.stdout.write(score_table.markdown(content["results"]))
    else:
        for table in terminal.scores(content["results"]):
            terminal.out().print(table)
    console = terminal.out() if format == "table" else terminal.notes()
    if found.kept:
        console.print(f"{found.kept} of {len(found.scores)} scores were in {out} already")
    _tell(Rejects(max_rejected, found.rejects()), out, console)
    if details is not None:
        console.print(f"details {details}", markup=False)
    for failure in found.failures:
        terminal.notes().print(f"failed: {failure}", markup=False, soft_wrap=True)
    if found.failures:
        raise typer.Exit(1)


def tell(content: dict[str, Any], rejects: "Rejects", out: Path | None) -> None:
    """Say what was rejected, and write scores to a file.

    Args:
        content: the scores, and what they are of.
        rejects: rows that were not scored; listed beside the file.
        out: the file; nothing is written when `None`.
    """
    from clipkit.report import terminal

    if out is not None:
        content = {**content, "rejected": dict(rejects.reasons())}
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _tell(rejects, out, terminal.out())


def _tell(rejects: "Rejects", out: Path | None, console: Any) -> None:
    """Say what was rejected and where it is written."""
    if len(rejects):
        console.print(rejects.summary(), markup=False, soft_wrap=True)
    if out is None:
        return
    console.print(f"scores  {out}", markup=False)
    if len(rejects):
        listed = out.with_name("rejects.jsonl")
        rejects.write(listed)
        console.print(f"every rejected row: {listed}", markup=False)
