"""`clipkit data`: which data sets there are, what is in one, and what is wrong with it."""

import json
import random
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.errors import ClipkitError, MissingExtraError, RejectedError

if TYPE_CHECKING:
    from clipkit.data import Audit
    from clipkit.models import DualEncoder

app = typer.Typer(help="List data sets, look into one, or audit it.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def list_data(context: typer.Context) -> None:
    """List the data sets that clipkit has manifests of; or `info`, `show` and `audit` one."""
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
        ["first row", f"{first.id}: {_told(first.captions) or first.label or 'no caption'}"],
    ]
    console = terminal.out()
    console.print(terminal.rows([dataset.name, ""], lines))
    for reject in dataset.rejects[:10]:
        console.print(f"  {reject.id}: {reject.reason} ({reject.where})", markup=False)


def _told(captions: tuple[str, ...]) -> str:
    """Return the first of some captions, cut, and how many more there are."""
    if not captions:
        return ""
    more = f" (and {len(captions) - 1:,} more)" if len(captions) > 1 else ""
    return textwrap.shorten(captions[0], 120, placeholder=" …") + more


@app.command("audit")
def audit(
    data: Annotated[
        str, typer.Argument(help="NAME[@SPLIT], a manifest file, a table, shards or a folder.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Other data, to find what both have; a manifest's splits are compared."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose resolution and context length count; the starter if absent."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for audit.json and rejects.jsonl, made if absent.")
    ] = Path("audit"),
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable; past it, exit 1.")
    ] = 0.01,
) -> None:
    """Decode every image and say what was found: rejects, sizes, cut captions, repeats, classes."""
    from clipkit.data import Rejects, load_splits
    from clipkit.data import audit as run
    from clipkit.packages import replace_file
    from clipkit.report import terminal

    limit = Rejects(max_rejected)
    encoder = _model(model)
    if out.is_file():
        raise ClipkitError(f"--out {out} is a file; name a folder")
    with terminal.Bars() as bars:
        parts = [
            part
            for name in (data, *(against or []))
            for part in load_splits(name, progress=bars.follow("drawing pictures"))
        ]
        found = run(
            parts,
            count_tokens=encoder.count_tokens if encoder else None,
            context_length=encoder.context_length if encoder else None,
            resolution=encoder.preprocessing.size if encoder else None,
            progress=lambda name, done, total: bars.show(f"looking at {name}", done, total),
        )
    _print(found)
    out.mkdir(parents=True, exist_ok=True)
    content = {"model": encoder.name if encoder else None, **found.to_dict()}
    replace_file(out / "audit.json", (json.dumps(content, indent=2) + "\n").encode())
    limit.rows = found.rejects
    limit.write(out / "rejects.jsonl")
    terminal.out().print(
        f"audit  {out / 'audit.json'}, every rejected row: {out / 'rejects.jsonl'}"
    )
    try:
        limit.check(found.rows, final=True)
    except RejectedError as error:
        terminal.notes().print(f"Failed: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    terminal.out().print(f"next   clipkit data show {data}", markup=False, soft_wrap=True)


def _model(name: str | None) -> "DualEncoder | None":
    """Load the model at hand: the one that is named, or the starter where it is installed."""
    from clipkit.models import load

    try:
        return load(name or "starter")
    except MissingExtraError:
        if name is not None:
            raise
        return None


def _print(found: "Audit") -> None:
    """Print the tables of an audit that have something to say."""
    from clipkit.report import audit as tables
    from clipkit.report import terminal

    console = terminal.out()
    console.print(terminal.rows(*tables.overview(found)))
    names = [part.name for part in found.parts]
    for title, columns, lines in (
        ("Rejected", ["data", "reason", "rows", "such as"], tables.rejected(found)),
        ("More than once", ["data", "what", "rows", "such as"], tables.repeated(found)),
        (
            "In both",
            ["data", "rows with the same image", "the same caption", "both", "such as"],
            tables.shared(found),
        ),
        ("Classes", ["label", *names], tables.classes(found)),
    ):
        if not lines and title == "In both" and len(names) > 1:
            console.print("No image and no caption is in two of them.")
        if lines:
            table = terminal.rows(columns, lines)
            table.title, table.title_justify = title, "left"
            console.print(table)


@app.command("show")
def show(
    data: Annotated[
        str, typer.Argument(help="NAME[@SPLIT], a manifest file, a table, shards or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="The picture to write; .png, .jpg or .webp.")] = Path(
        "sheet.png"
    ),
    rows: Annotated[int, typer.Option(help="How many rows to show.", min=1, max=400)] = 24,
    columns: Annotated[int, typer.Option(help="Pictures a line.", min=1, max=40)] = 6,
    seed: Annotated[int, typer.Option(help="Chooses the rows.")] = 0,
    first: Annotated[bool, typer.Option("--first", help="Show the first rows instead.")] = False,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Show rows that cannot be used, and why.")
    ] = False,
) -> None:
    """Draw a contact sheet of some rows with their captions and labels, to look at."""
    from clipkit.data import load_data
    from clipkit.report import terminal
    from clipkit.report.contact_sheet import Cell, contact_sheet

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ClipkitError(f"--out {out} ends in none of .png, .jpg, .webp")
    with terminal.bars() as follow:
        dataset = load_data(data, progress=follow("drawing pictures"))
    count = len(dataset.rejects) if rejected else len(dataset)
    if not count:
        raise ClipkitError(f"{dataset.name} has no rejected row to show")
    rows = min(rows, count)
    some = range(rows) if first else sorted(random.Random(seed).sample(range(count), rows))
    if rejected:
        bad = [dataset.rejects[row] for row in some]
        cells = [Cell(None, reject.id, (reject.where,), reject.reason) for reject in bad]
    else:
        cells = []
        for row in some:
            sample = dataset[row]
            label = (f"[{sample.label}]",) if sample.label else ()
            cells.append(Cell(sample.image, sample.id, (*label, *sample.captions)))
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(cells, columns=columns).save(out)
    terminal.out().print(f"sheet  {out}  ({len(cells)} of {count:,} rows)", markup=False)
