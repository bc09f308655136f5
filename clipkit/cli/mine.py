"""`clipkit mine`: hard negatives of the rows of a store, false ones left out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.cli.store_uses import Store

if TYPE_CHECKING:
    from clipkit.embed.mine import Mined

Anchors = Annotated[
    str | None,
    typer.Option(help="image or text: whose negatives; of the images, where the store has any."),
]
Among = Annotated[
    str | None,
    typer.Option(help="image or text: what they are; the other kind, where the store has both."),
]
MaxShare = Annotated[
    float,
    typer.Option(
        help="Skip what scores above this share of the anchor's positive: an image's best caption,"
        " a caption's image, and among rows of one kind the anchor itself, with 1."
    ),
]
Margin = Annotated[
    float | None, typer.Option(help="Skip what scores above the positive less this, too.")
]
MaxScore = Annotated[
    float | None, typer.Option(help="Skip what has a cosine above this with the anchor, too.")
]
Labels = Annotated[
    bool,
    typer.Option("--labels/--no-labels", help="Skip rows that have the label of the anchor."),
]
Device = Annotated[str | None, typer.Option(help="Where to multiply, such as cuda; the CPU.")]


def mine(
    store: Store,
    k: Annotated[int, typer.Option("-k", "--k", help="Negatives of each, at most.", min=1)] = 10,
    anchors: Anchors = None,
    among: Among = None,
    max_share: MaxShare = 0.95,
    margin: Margin = None,
    max_score: MaxScore = None,
    labels: Labels = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write, with a list of negatives a row: .parquet or .jsonl."),
    ] = None,
    device: Device = None,
) -> None:
    """Find the hardest negatives of each image or caption: the nearest that are no positives.

    What shows the same image bytes, caption or label is skipped, and so is what comes too near to
    the score of the anchor's own positive (arXiv 2407.15831). All anchors are compared with all
    candidates: the time grows with the product of both, and an index is not used.
    """
    from clipkit.embed.mine import mine_negatives
    from clipkit.embed.negatives import Limits
    from clipkit.embed.store import EmbeddingStore
    from clipkit.report import terminal

    limits = Limits(max_share, margin, max_score)
    with terminal.Bars() as bars:
        found = mine_negatives(
            EmbeddingStore(store),
            out,
            k=k,
            anchors=anchors,
            among=among,
            limits=limits,
            labels=labels,
            device=device,
            progress=bars.follow("rows mined"),
        )
    _show(found, k, out)


def _show(found: "Mined", k: int, out: Path | None) -> None:
    """Print the hardest negative of the first anchors, and what was skipped."""
    from clipkit.report import terminal

    console = terminal.out()
    lines = [
        [
            row["id"],
            row["caption"] or "",
            "" if row["positive"] is None else f"{row['positive']:.3f}",
            f"{score:.3f}",
            row["negative_ids"][0],
            row["negative_captions"][0] or "",
        ]
        for row in found.first
        for score in row["scores"][:1]
    ]
    if lines:
        names = ["id", "caption", "positive", "score", "hardest negative", "its caption"]
        console.print(terminal.rows(names, lines))
    skipped = ", ".join(f"{count} by {reason}" for reason, count in found.skipped.items() if count)
    console.print(f"mined  {found.negatives} negatives of {found.anchors} rows")
    console.print(f"false  of the {k} nearest of each: {skipped or 'none'}", soft_wrap=True)
    if found.short:
        console.print(f"short  {found.short} rows have fewer than {k}")
    if found.unpaired:
        console.print(f"alone  {found.unpaired} rows have no positive to compare scores with")
    if out is not None:
        console.print(f"table  {out}  ({found.anchors} rows)", markup=False)
