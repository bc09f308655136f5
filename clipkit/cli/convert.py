"""`clipkit convert`: a model for another library."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[str, typer.Argument(help="A name of `clipkit models`, or a folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to be made.")],
    to: Annotated[str, typer.Option(help="open_clip, transformers or onnx.")],
    data: Annotated[
        str, typer.Option(help="Images and captions to compare the two models on.")
    ] = "skimage_photos",
) -> None:
    """Write a model in another library's format, once it is shown to give the same features."""
    from clipkit.convert import convert as run
    from clipkit.report import terminal

    done = run(model, to, out, data=data)
    console = terminal.out()
    console.print(f"{done.to}  {done.folder}", markup=False)
    console.print(
        f"compared on {done.images} images and {done.texts} texts: the largest difference is"
        f" {done.image_difference:.1e} and {done.text_difference:.1e}",
        markup=False,
        soft_wrap=True,
    )
