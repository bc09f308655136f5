"""What `clipkit store` finds in a store: near-duplicates, outliers, groups, the pairs that fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.embed.store import EmbeddingStore

Store = Annotated[Path, typer.Argument(help="A folder that `clipkit embed` wrote.")]
Kind = Annotated[
    str | None,
    typer.Option(help="image or text rows; images where the store has both."),
]
Out = Annotated[Path | None, typer.Option(help="Table to write: .csv, .jsonl or .parquet.")]
Sheet = Annotated[
    Path | None, typer.Option(help="Contact sheet to draw as well: .png, .jpg or .webp.")
]

SHOWN = 10


def duplicates(
    store: Store,
    threshold: Annotated[float, typer.Option(help="Least cosine of a near-duplicate.")] = 0.95,
    kind: Kind = None,
    out: Out = None,
    sheet: Sheet = None,
) -> None:
    """Find near-duplicates: groups of rows that are connected by a cosine over the threshold."""
    from clipkit.embed.duplicates import find_duplicates
    from clipkit.report import terminal

    opened, keep = _open(store, kind, out, sheet)
    with terminal.bars() as follow:
        found = find_duplicates(
            opened.vectors(), threshold, keep=keep, progress=follow("rows compared")
        )
    groups = len({row.group for row in found})
    values = [
        (row.row, {"group": row.group, "score": row.score, "nearest_row": row.nearest})
        for row in found
    ]
    _show(opened, values, ["group", "score"], out, sheet)
    terminal.out().print(
        f"{len(found)} rows are in {groups} groups of near-duplicates; without them"
        f" {len(found) - groups} rows fewer"
    )


def outliers(
    store: Store,
    count: Annotated[int, typer.Option("-n", help="Rows to list.", min=1)] = 100,
    k: Annotated[int, typer.Option("-k", help="Neighbours to take the mean over.", min=1)] = 10,
    sample: Annotated[
        int | None, typer.Option(help="Look for neighbours among so many rows alone.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses these.")] = 0,
    kind: Kind = None,
    out: Out = None,
    sheet: Sheet = None,
) -> None:
    """Find rows unlike all others: the lowest mean cosine with their nearest neighbours."""
    from clipkit.embed.outliers import find_outliers
    from clipkit.report import terminal

    opened, keep = _open(store, kind, out, sheet)
    with terminal.bars() as follow:
        found = find_outliers(
            opened.vectors(),
            count,
            k=k,
            keep=keep,
            sample=sample,
            seed=seed,
            progress=follow("rows compared"),
        )
    values = [(row.row, {"score": row.score}) for row in found]
    _show(opened, values, ["score"], out, sheet)


def kmeans(
    store: Store,
    groups: Annotated[int, typer.Option(help="How many groups.", min=1)],
    nearest: Annotated[
        int, typer.Option(help="Examples of a group, nearest to its centre.", min=1)
    ] = 5,
    max_steps: Annotated[int, typer.Option(help="Passes over the rows, at most.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Chooses the first centres.")] = 0,
    kind: Kind = None,
    out: Out = None,
    sheet: Sheet = None,
) -> None:
    """Put rows into groups of like ones, and show the nearest examples of each."""
    from clipkit.embed.found_rows import describe, write_listing
    from clipkit.embed.kmeans import group_rows
    from clipkit.report import terminal

    opened, keep = _open(store, kind, out, sheet)
    with terminal.bars() as follow:
        found = group_rows(
            opened.vectors(),
            groups,
            keep=keep,
            seed=seed,
            max_steps=max_steps,
            progress=follow("passes"),
        )
    examples = [(row, g) for g in range(groups) for row in found.nearest(g, nearest)]
    told = opened.rows_at([row for row, _ in examples], ["id", "caption"])
    lines = []
    for group, size in enumerate(found.sizes()):
        some = [row for row, (_, g) in zip(told, examples, strict=True) if g == group]
        lines.append(
            [str(group), str(size), "; ".join(row["caption"] or row["id"] for row in some)]
        )
    console = terminal.out()
    console.print(terminal.rows(["group", "rows", "nearest to its centre"], lines))
    if not found.settled:
        console.print(f"rows still moved in pass {found.steps}: raise --max-steps")
    if out is not None:
        columns = zip(found.rows.tolist(), found.group.tolist(), found.score.tolist(), strict=True)
        values = [(row, {"group": group, "score": score}) for row, group, score in columns]
        write_listing(out, describe(opened, values))
        console.print(f"table  {out}  ({len(values)} rows)", markup=False)
    if sheet is not None:
        titled = [(row, {"group": group}) for row, group in examples]
        _draw(opened, titled, ["group"], sheet, columns=nearest)


def filter_pairs(
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder to write; absent or empty.")],
    keep: Annotated[
        float | None, typer.Option(help="Share of the pairs to keep, the best, such as 0.3.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Or the least cosine to keep.")] = None,
) -> None:
    """Keep the pairs of image and caption that fit best, as data that `clipkit train` takes."""
    from clipkit.embed.clip_score import SCORES
    from clipkit.embed.clip_score import filter_pairs as run
    from clipkit.embed.store import EmbeddingStore
    from clipkit.report import terminal

    with terminal.bars() as follow:
        found = run(
            EmbeddingStore(store),
            out,
            keep=keep,
            min_score=min_score,
            progress=follow("pairs scored"),
        )
    console = terminal.out()
    console.print(
        f"kept   {found.kept} of {found.pairs} pairs, of {found.images} images: scores of at least"
        f" {found.threshold:.4f}; every pair: {out / SCORES}",
        soft_wrap=True,
    )
    if found.unpaired:
        console.print(f"{len(found.unpaired)} rows have no partner and no score")
    if found.manifest is None:
        console.print("the store does not tell where its images are, so there is no manifest")
    else:
        console.print(f"next   clipkit data info {found.manifest}", markup=False, soft_wrap=True)


def _open(
    store: Path, kind: str | None, out: Path | None, sheet: Path | None
) -> "tuple[EmbeddingStore, Any]":
    """Open a store; return which rows of it are meant. What cannot be written is refused first."""
    from clipkit.embed.found_rows import check_listing
    from clipkit.embed.store import EmbeddingStore

    if out is not None:
        check_listing(out)
    check_sheet(sheet)
    opened = EmbeddingStore(store)
    if kind is None:
        kind = "text" if opened.info.what == "captions" else "image"
    return opened, opened.matching(kind=kind)


def check_sheet(sheet: Path | None) -> None:
    """Refuse a contact sheet that could not be written.

    Raises:
        ConfigError: it is there already, or its name tells no kind of picture.
    """
    if sheet is None:
        return
    if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--sheet {sheet} ends in none of .png, .jpg, .webp")
    if sheet.exists():
        raise ConfigError(f"--sheet {sheet} is there already: name another file, or delete it")


def _show(
    store: "EmbeddingStore",
    found: Sequence[tuple[int, dict[str, Any]]],
    names: Sequence[str],
    out: Path | None,
    sheet: Path | None,
) -> None:
    """Print the first rows of what was found, and write and draw it where that is asked for."""
    from clipkit.embed.found_rows import describe, write_listing
    from clipkit.report import terminal

    console = terminal.out()
    columns = [*names, "row", "id", "caption"]
    lines = [[_cell(row[name]) for name in columns] for row in describe(store, found[:SHOWN])]
    if lines:
        console.print(terminal.rows(columns, lines))
    if out is not None:
        count = write_listing(out, describe(store, found))
        console.print(f"table  {out}  ({count} rows)", markup=False)
    elif len(found) > SHOWN:
        console.print(f"and {len(found) - SHOWN} more; --out FILE.csv has them all")
    if sheet is not None:
        _draw(store, found[:200], names, sheet)


def _draw(
    store: "EmbeddingStore",
    found: Sequence[tuple[int, dict[str, Any]]],
    names: Sequence[str],
    sheet: Path,
    columns: int = 6,
) -> None:
    from clipkit.embed.found_rows import describe
    from clipkit.report import terminal
    from clipkit.report.contact_sheet import Cell, contact_sheet

    cells = [
        Cell(
            Path(row["path"]) if row["path"] else None,
            " ".join([*(f"{name} {_cell(row[name])}" for name in names), row["id"]]),
            (row["caption"] or "",),
        )
        for row in describe(store, found)
    ]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(cells, columns=columns).save(sheet)
    terminal.out().print(f"sheet  {sheet}  ({len(cells)} rows)", markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
