"""`clipkit embed`: the embeddings of a whole collection."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.data import Dataset
    from clipkit.embed.store import EmbeddingStore, Made
    from clipkit.types import Progress


def embed(
    data: Annotated[
        list[str],
        typer.Argument(
            help="A name of `clipkit data`, a manifest, a table or a folder; or image files, or a"
            " text file that names one a line, or - for such lines from stdin."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The store's folder.")],
    model: Annotated[
        str, typer.Option(help="starter, or a folder that clipkit wrote.")
    ] = "starter",
    what: Annotated[str, typer.Option(help="images, captions or both.")] = "images",
    dtype: Annotated[str, typer.Option(help="float32 or float16, for what is stored.")] = "float32",
    shard_rows: Annotated[
        int, typer.Option(help="Rows a file of the store is made from.")
    ] = 10_000,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a forward pass; what suits the device unless said.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, bf16 or auto, for the model's towers.")
    ] = "float32",
    device: Annotated[
        str | None,
        typer.Option(help="Such as cuda; the CPU, or of several processes each its GPU."),
    ] = None,
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
    ray: Annotated[
        int, typer.Option(help="Actors of a Ray cluster that share the work; 0 without Ray.")
    ] = 0,
    gpus: Annotated[float, typer.Option(help="Of each of these actors.")] = 0,
) -> None:
    """Encode a collection into a store of parquet files, or what is new in it.

    Run again after a kill, it goes on where it was; run again on a collection that changed, it
    encodes what is new. `accelerate launch -m clipkit embed ...` shares the work among processes.
    """
    if ray and device is not None:
        raise ConfigError("--device: actors compute where --gpus says, not where --device does")
    if gpus and not ray:
        raise ConfigError("--gpus: is of the actors of --ray, which is not given")
    from clipkit.embed.export import embed as run
    from clipkit.embed.on_ray import embed_with_ray
    from clipkit.report import terminal

    with terminal.bars() as follow:
        if ray:
            store = embed_with_ray(
                model,
                _paths(data) or data[0],
                out,
                workers=ray,
                gpus=gpus,
                what=what,
                shard_rows=shard_rows,
                dtype=dtype,
                batch_size=batch_size,
                precision=precision,
                max_rejected=max_rejected,
                progress=follow("rows embedded"),
            )
        else:
            store = run(
                model,
                _read(data, follow("drawing pictures")),
                out,
                what=what,
                dtype=dtype,
                shard_rows=shard_rows,
                batch_size=batch_size,
                precision=precision,
                device=device,
                max_rejected=max_rejected,
                progress=follow("rows embedded"),
            )
    if store.made is not None and store.made.is_main:
        _tell(store, store.made)


def _read(data: list[str], progress: "Progress") -> "Dataset":
    """Return the data that the words of a command line mean."""
    from clipkit.data import load_data
    from clipkit.data.paths import list_paths

    paths = _paths(data)
    if paths is None:
        return load_data(data[0], progress=progress)
    return list_paths(paths, "stdin" if data == ["-"] else Path(data[0]).stem)


def _paths(data: list[str]) -> list[str] | None:
    """Return the image files that are named, or `None` where the words name other data."""
    from clipkit.data.decode import IMAGE_SUFFIXES
    from clipkit.data.paths import read_lines

    first = Path(data[0])
    if len(data) > 1 or first.suffix.lower() in IMAGE_SUFFIXES:
        return data
    if data == ["-"]:
        return [line.rstrip("\r\n") for line in sys.stdin]
    return read_lines(first) if first.suffix.lower() == ".txt" and first.is_file() else None


def _tell(store: "EmbeddingStore", made: "Made") -> None:
    """Say on the terminal what a store holds, and how that came about."""
    from clipkit.report import terminal

    info, console = store.info, terminal.out()
    console.print(f"store  {store.path}  ({info.rows} rows of {info.dim} numbers, {info.dtype})")
    skipped = f", {info.skipped} skipped" if info.skipped else ""
    console.print(
        f"rows   {info.rows} = {made.encoded} encoded + {made.reused} reused;"
        f" {info.rejected} rejected{skipped}, {made.removed} removed"
    )
    for name in made.redone:
        console.print(f"{name} was damaged or missing, and is made again", markup=False)
    if info.rejected:
        rows = f"{info.rejected} row{'s' * (info.rejected != 1)}"
        console.print(f"{rows} could not be used: {store.path / info.rejects}")
        for row in store.rejects()[:5]:
            console.print(f"  {row.id}: {row.reason}", markup=False)
    console.print(f'next   clipkit search {store.path} "words to look for"', soft_wrap=True)
