"""`clipkit label`: labels for images that have none, as data to be trained on."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.cli.classify import read_labels, read_other


def label(
    data: Annotated[
        str, typer.Argument(help="A name of `clipkit data`, a manifest, a table or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; one with labels is replaced.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated labels; a txt, json or csv file of them; or data with classes."
            " Those of --fit unless said."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="starter, another model, or a saved classifier, which has its labels."),
    ] = "starter",
    fit: Annotated[
        str | None, typer.Option(help="Labelled data to learn from, a handful of each label.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Other labelled data, by which the confidence becomes a probability. Unless said,"
            " that of --fit, each image left out in turn."
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="none, plain, simple (the default), imagenet, or a prompt with {} for the label."
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(help="Least probability (0.3), or what else there may be ('a photo')."),
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Keep labels of at least this confidence.")
    ] = None,
    top_per_class: Annotated[
        int | None, typer.Option(help="Keep so many images of each label, the surest.")
    ] = None,
    labelled: Annotated[
        str,
        typer.Option(
            help="Rows that have a label: skip leaves them out, keep writes them too, relabel takes"
            " no notice of it."
        ),
    ] = "skip",
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
) -> None:
    """Label images that have no label: with confidence, a sheet to look at, and what is left out.

    The folder's manifest.yaml is data that `clipkit train` takes; labels.parquet has the
    confidence, left_out.parquet each image that got no label with its reason.
    """
    from clipkit.labelling import label as run
    from clipkit.report import terminal

    with terminal.Bars() as bars:
        told = run(
            data,
            out,
            model=model,
            labels=None if labels is None else read_labels(labels),
            templates=templates,
            other=read_other(other),
            fit=fit,
            calibrate=calibrate,
            min_confidence=min_confidence,
            top_per_class=top_per_class,
            labelled=labelled,  # type: ignore[arg-type]
            max_rejected=max_rejected,
            progress=bars.show,
        )
    console = terminal.out()
    lines = [[name, str(number)] for name, number in told.labels.items()]
    console.print(terminal.rows(["label", "images"], lines))
    kept, left = sum(told.labels.values()), sum(told.left_out.values())
    console.print(f"rows   {told.rows} = {kept} with a label + {left} left out")
    for reason, number in told.left_out.items():
        console.print(f"       {number} {reason}", markup=False)
    console.print(f"sure   {told.confidence}", markup=False, soft_wrap=True)
    console.print(
        f"labels {told.folder}  (labels.parquet, left_out.parquet, sheets/)", markup=False
    )
    console.print(f"next   clipkit data info {told.manifest}", markup=False, soft_wrap=True)
