"""`clipkit embed`: the embeddings of a whole collection."""

from pathlib import Path
from typing import Annotated

import typer


def embed(
    data: Annotated[
        str, typer.Argument(help="A name of `clipkit data`, a manifest, a table or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="The store's folder.")],
    model: Annotated[
        str, typer.Option(help="starter, or a folder that clipkit wrote.")
    ] = "starter",
    what: Annotated[str, typer.Option(help="images, captions or both.")] = "images",
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    shard_rows: Annotated[int, typer.Option(help="Rows a file of the store covers.")] = 10_000,
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
) -> None:
    """Encode a collection into a store of parquet files; run again, it goes on where it was."""
    from clipkit.data import load_data
    from clipkit.embed.export import embed as run
    from clipkit.report import terminal

    with terminal.bars() as follow:
        store = run(
            model,
            load_data(data, progress=follow("drawing pictures")),
            out,
            what=what,
            dtype=dtype,
            shard_rows=shard_rows,
            max_rejected=max_rejected,
            progress=follow("rows embedded"),
        )
    info = store.info
    console = terminal.out()
    console.print(f"store  {store.path}  ({info.rows} rows of {info.dim} numbers, {info.dtype})")
    if info.rejected:
        where = store.path / "rejects.parquet"
        rows = f"{info.rejected} row{'s' * (info.rejected != 1)}"
        console.print(f"{rows} could not be used: {where}")
        for row in store.rejects()[:5]:
            console.print(f"  {row.id}: {row.reason}", markup=False)
    console.print(f'next   clipkit search {store.path} "words to look for"', soft_wrap=True)
