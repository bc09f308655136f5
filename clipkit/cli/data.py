"""`clipkit data`: which data sets there are, and what is in one."""

from typing import Annotated

import typer

app = typer.Typer(help="List data sets, or look into one.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def list_data(context: typer.Context) -> None:
    """List the data sets that clipkit has manifests of, or look into one with `info`."""
    if context.invoked_subcommand is not None:
        return
    from clipkit.data.manifest import list_manifests, read_manifest
    from clipkit.report import terminal

    lines = []
    for name in list_manifests():
        manifest = read_manifest(name)
        splits = ", ".join(manifest.splits) or "-"
        lines.append([name, manifest.title, splits, manifest.licence])
    terminal.out().print(terminal.rows(["name", "what it is", "splits", "licence"], lines))
    line = "next   clipkit data info NAME[@SPLIT]   (or a manifest, table or folder)"
    terminal.out().print(line, markup=False)


@app.command("info")
def info(
    data: Annotated[
        str, typer.Argument(help="NAME[@SPLIT], a manifest file, a table or a folder.")
    ],
) -> None:
    """Say how many rows a data set has, what they hold, and what cannot be used."""
    from clipkit.data import Rejects, load_data
    from clipkit.report import terminal

    with terminal.bars() as follow:
        dataset = load_data(data, progress=follow("drawing pictures"))
    captions = [caption for sample in dataset for caption in sample.captions]
    labelled = sum(sample.label is not None for sample in dataset)
    first = dataset[0]
    lines = [
        ["rows", str(len(dataset))],
        ["captions", str(len(captions))],
        ["labelled rows", f"{labelled} in {len(dataset.class_names)} classes"],
        ["rejects", Rejects(rows=dataset.rejects).summary()],
        ["licence", dataset.licence or "-"],
        ["fingerprint", dataset.fingerprint()],
        ["first row", f"{first.id}: {', '.join(first.captions) or first.label or 'no caption'}"],
    ]
    console = terminal.out()
    console.print(terminal.rows([dataset.name, ""], lines))
    for reject in dataset.rejects[:10]:
        console.print(f"  {reject.id}: {reject.reason} ({reject.where})", markup=False)
