"""`clipkit search`: the rows of a store that are nearest to a text or an image."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.cli.store_uses import check_sheet
from clipkit.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from clipkit.embed.query import Query
    from clipkit.embed.search import Hit


def search(
    store: Annotated[Path, typer.Argument(help="A folder that `clipkit embed` wrote.")],
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words; one text or several.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Look for what is like this image; added to the words, if any."),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(help="Words for what it should be unlike; subtracted.")
    ] = None,
    minus_image: Annotated[
        list[Path] | None, typer.Option(help="An image that it should be unlike.")
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(help="Only rows such as label=cat or year>=2020; several: all of them."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Rows to find.", min=1)] = 10,
    kind: Annotated[str | None, typer.Option(help="Only image rows, or only text rows.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model that made the store, where it moved since.")
    ] = None,
    index: Annotated[
        bool | None,
        typer.Option(
            "--index/--exact",
            help="Search the index, or all rows. By itself exact, but for a store of more than a"
            " million rows that has an index.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the images that are found: .png, .jpg or .webp.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="table or jsonl; a table on a terminal, jsonl in a pipe.")
    ] = None,
) -> None:
    """Search a store by texts, each for itself, or by images; or by sums and differences of them.

    Exact, whatever the store's size, unless by an index.
    """
    format = format or ("table" if sys.stdout.isatty() else "jsonl")
    if format not in ("table", "jsonl"):
        raise ConfigError(f"--format {format!r} is unknown; known: jsonl, table")
    if not queries and not image:
        raise ConfigError("give a text, --image FILE or both to look for")
    for path in [*(image or []), *(minus_image or [])]:
        if not path.is_file():
            raise StoreError(f"no image file {str(path)!r}")
    check_sheet(sheet)
    from clipkit.embed.filters import parse_filters
    from clipkit.embed.store import EmbeddingStore
    from clipkit.models import load
    from clipkit.report import terminal

    opened = EmbeddingStore(store)
    wanted = parse_filters(filter, opened.schema()) if filter else None
    encoder = load(model) if model else None
    less: list[Query] = [*(minus or []), *(minus_image or [])]
    found: list[tuple[str, list[Hit]]] = []
    for text in queries or [""]:
        plus: list[Query] = [*([text] if queries else []), *(image or [])]
        hits = opened.search(
            plus,
            k,
            minus=less,
            filter=wanted,
            kind=kind,
            model=encoder,
            index=index,
        )
        found.append((_told(plus, less), hits))
    for told, hits in found:
        if format == "jsonl":
            for hit in hits:
                line = json.dumps({"query": told, **asdict(hit)}, ensure_ascii=False, default=str)
                sys.stdout.write(line + "\n")
            continue
        lines = [[f"{h.score:.3f}", h.id, h.kind, h.caption or "", h.label or ""] for h in hits]
        table = terminal.rows(["score", "id", "kind", "caption", "label"], lines)
        table.title = told
        terminal.out().print(table)
    if sheet is not None:
        _draw(found, sheet, k)


def _told(plus: "Sequence[Query]", less: "Sequence[Query]") -> str:
    """Return a query in words, such as `a red flag + cat.jpg - a dog`."""
    return "".join([" + ".join(map(str, plus)), *(f" - {part}" for part in less)])


def _draw(found: "Sequence[tuple[str, list[Hit]]]", sheet: Path, k: int) -> None:
    """Draw what was found, the hits of each query in rows of their own."""
    from clipkit.report import terminal
    from clipkit.report.contact_sheet import Cell, contact_sheet

    columns = min(k, 6)
    cells: list[Cell] = []
    for told, hits in found:
        for hit in hits:
            path = Path(hit.path) if hit.path else None
            words = (hit.caption or hit.label or "",) if path else (hit.caption or "",)
            title = f"{hit.score:.3f} {hit.id}"
            cells.append(Cell(path, title, (*words, *([f"({told})"] if len(found) > 1 else []))))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(cells, columns=columns).save(sheet)
    terminal.notes().print(f"sheet  {sheet}  ({len(cells)} rows)", markup=False)
