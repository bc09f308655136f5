"""`clipkit search`: the rows of a store that are nearest to a text or an image."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipkit.errors import ConfigError, StoreError


def search(
    store: Annotated[Path, typer.Argument(help="A folder that `clipkit embed` wrote.")],
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words; one text or several.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this image.")] = None,
    k: Annotated[int, typer.Option("-k", help="Rows to find.", min=1)] = 10,
    kind: Annotated[str | None, typer.Option(help="Only image rows, or only text rows.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model that made the store, where it moved since.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="table or jsonl; a table on a terminal, jsonl in a pipe.")
    ] = None,
) -> None:
    """Search a store by text or by image; exact, whatever the store's size."""
    if bool(queries) == (image is not None):
        raise ConfigError("give either a text or --image FILE to look for")
    format = format or ("table" if sys.stdout.isatty() else "jsonl")
    if format not in ("table", "jsonl"):
        raise ConfigError(f"--format {format!r} is unknown; known: jsonl, table")
    if image is not None and not image.is_file():
        raise StoreError(f"no image file {str(image)!r}")
    from clipkit.embed.store import EmbeddingStore
    from clipkit.models import load
    from clipkit.report import terminal

    opened = EmbeddingStore(store)
    encoder = load(model) if model else None
    for query in [image] if image is not None else queries or []:
        hits = opened.search(query, k, kind=kind, model=encoder)
        if format == "jsonl":
            for hit in hits:
                found = {"query": str(query), **asdict(hit)}
                sys.stdout.write(json.dumps(found, ensure_ascii=False, default=str) + "\n")
            continue
        lines = [[f"{h.score:.3f}", h.id, h.kind, h.caption or "", h.label or ""] for h in hits]
        table = terminal.rows(["score", "id", "kind", "caption", "label"], lines)
        table.title = str(query)
        terminal.out().print(table)
