"""`clipkit store`: what is in a store, whether it is whole, its index, its other forms."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.cli.store_uses import Store, duplicates, filter_pairs, kmeans, outliers
from clipkit.errors import ConfigError

app = typer.Typer(
    help="Look into a store of embeddings, check it, index it, convert it, use it.",
    no_args_is_help=True,
)
app.command("duplicates")(duplicates)
app.command("outliers")(outliers)
app.command("kmeans")(kmeans)
app.command("filter")(filter_pairs)

Kind = Annotated[str | None, typer.Option(help="Only image rows, or only text rows.")]


@app.command("verify")
def verify(store: Store) -> None:
    """Check files, rows, order, and numbers of a store; exit 1 and say what is wrong with it."""
    from clipkit.embed.store import StoreInfo
    from clipkit.embed.verify import verify_store
    from clipkit.report import terminal

    info = StoreInfo.read(store)
    problems = verify_store(store, info)
    console = terminal.out()
    for problem in problems:
        redo = problem.redo()
        console.print(
            f"{problem}{f'; to be done again: {redo}' if redo else ''}",
            markup=False,
            soft_wrap=True,
        )
    if not info.complete:
        console.print("not finished: rows of the input are left to be done")
    if problems or not info.complete:
        console.print(
            "next   the same `clipkit embed` again: shards that are missing or changed are made"
            " again; delete a shard first where its numbers are wrong",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
    console.print(
        f"good   {info.rows} rows in {len(info.shards)} shards, {info.rejected} rejected, of"
        f" {info.input_rows}; sha256, order, lengths and numbers are as they should be"
    )


@app.command("info")
def info(store: Store) -> None:
    """Say what is in a store."""
    from clipkit.embed.index import index_infos
    from clipkit.embed.rows import RESERVED
    from clipkit.embed.store import EmbeddingStore
    from clipkit.report import terminal

    opened = EmbeddingStore(store)
    told = opened.info
    kinds = opened.count_kinds()
    size = sum((store / shard.file).stat().st_size for shard in told.shards)
    more = [name for name in opened.schema().names if name not in RESERVED]
    lines = [
        ["rows", ", ".join(f"{count:,} of kind {kind}" for kind, count in kinds.items())],
        ["rejected", f"{told.rejected:,} of {told.input_rows:,}"],
        [
            "embeddings",
            f"{told.dim} numbers, {told.dtype}, length {'1' if told.normalised else '?'}",
        ],
        ["model", f"{told.model['name']} ({told.model['fingerprint'][:19]}…)"],
        ["data", f"{told.data['name']} ({told.data['fingerprint'][:19]}…)"],
        ["shards", f"{len(told.shards)}, {size / 1e6:,.1f} MB"],
        ["further columns", ", ".join(more) or "-"],
    ]
    for found in index_infos(store):
        fits = found.fingerprint == opened.fingerprint()
        words = _recall(found) if fits else "made before the rows changed, and so not used"
        lines.append([f"index of {found.kind} rows", words])
    terminal.out().print(terminal.rows([str(store), ""], lines))


@app.command("head")
def head(
    store: Store,
    n: Annotated[int, typer.Option("-n", help="Rows to show.", min=1)] = 10,
) -> None:
    """Show the first rows of a store as a table, and how their embeddings begin."""
    from clipkit.embed.store import EmbeddingStore
    from clipkit.report import terminal

    opened = EmbeddingStore(store)
    first = range(min(n, len(opened)))
    numbers = opened.vectors().take(list(first))
    found = opened.rows_at(list(first))
    names = [name for name in (found[0] if found else []) if name != "sha256"]
    lines = [
        [*(_cell(row[name]) for name in names), " ".join(f"{x:+.3f}" for x in vector[:4]) + " …"]
        for row, vector in zip(found, numbers, strict=True)
    ]
    terminal.out().print(terminal.rows([*names, "embedding"], lines))


@app.command("index")
def index(
    store: Store,
    kind: Kind = None,
    recall: Annotated[
        float, typer.Option(help="Share of the 10 nearest that a search is to find, on average.")
    ] = 0.98,
    connectivity: Annotated[int, typer.Option(help="Neighbours of a row in the graph.")] = 16,
    expansion: Annotated[
        int, typer.Option(help="Candidates kept while a row is put in; more is better, slower.")
    ] = 128,
    again: Annotated[bool, typer.Option("--again", help="Make it even if one is there.")] = False,
) -> None:
    """Make an index for fast searches of a large store, and measure what such searches find."""
    from clipkit.embed.store import EmbeddingStore
    from clipkit.report import terminal

    opened = EmbeddingStore(store)
    with terminal.bars() as follow:
        made = opened.build_index(
            kind=kind,
            recall=recall,
            connectivity=connectivity,
            expansion_add=expansion,
            again=again,
            progress=follow("rows indexed"),
        )
    terminal.out().print(f"index  {made.rows} {made.kind} rows: {_recall(made)}", soft_wrap=True)
    if made.recall_at_10 < recall:
        terminal.notes().print(
            f"Failed: recall@10 is {made.recall_at_10:.3f}, not {recall:g}: raise --connectivity or"
            " --expansion, and give --again",
            soft_wrap=True,
        )
        raise typer.Exit(1)


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="A store, or a folder that clip-retrieval wrote.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[
        str, typer.Option(help="npy: for clip-retrieval and its kin. parquet: a store from such.")
    ],
    model: Annotated[
        str | None, typer.Option(help="With --to parquet: the model that made the embeddings.")
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="With --to parquet: bring them to length 1.")
    ] = False,
) -> None:
    """Write a store as npy files with metadata, as clip-retrieval has them, or the other way."""
    from clipkit.report import terminal

    if to not in ("npy", "parquet"):
        raise ConfigError(f"--to {to!r} is unknown; known: npy, parquet")
    if to == "npy" and (model or normalise):
        raise ConfigError("--model and --normalise are for --to parquet")
    console = terminal.out()
    if to == "parquet":
        from clipkit.embed.from_npy import read_npy

        if model is None:
            raise ConfigError("--to parquet needs --model: such a folder does not tell it")
        with terminal.bars() as follow:
            made = read_npy(source, out, model, normalise=normalise, progress=follow("rows"))
        console.print(f"store  {out}  ({len(made)} rows of {made.info.dim} numbers)", markup=False)
        return
    from clipkit.embed.store import EmbeddingStore
    from clipkit.embed.to_npy import write_npy

    with terminal.bars() as follow:
        written = write_npy(EmbeddingStore(source), out, progress=follow("rows"))
    console.print(f"folder  {out}  ({written.rows} rows in {written.files} files)", markup=False)
    if written.left_out:
        count = len(written.left_out)
        console.print(f"{count} rows have no partner: {out / 'rejects.jsonl'}", markup=False)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _recall(found: Any) -> str:
    """Say what searches by an index find, and how fast."""
    ratio = found.exact_seconds / max(found.index_seconds, 1e-9)
    return (
        f"recall@10 {found.recall_at_10:.3f} on {found.sampled} rows,"
        f" {1e3 * found.index_seconds:.2f} ms a query, {ratio:.0f} times as fast as exact"
        f" ({1e3 * found.exact_seconds:.1f} ms); built in {found.build_seconds:.0f} s"
    )
