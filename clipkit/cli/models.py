"""`clipkit models`: which models can be loaded, and what is in one."""

from typing import Annotated

import typer

app = typer.Typer(help="List models, or look into one.", no_args_is_help=False)

KNOWN = (
    ("starter", "EfficientNet-Lite0 + MiniLM-L6, 28 M parameters, works offline"),
    ("FOLDER", "a model that clipkit saved, such as runs/openmoji/model"),
    (
        "towers:IMAGE+TEXT",
        "a timm image tower and a transformers text tower, to be trained, such as"
        " towers:vit_small_patch16_224+sentence-transformers/all-MiniLM-L6-v2",
    ),
)


@app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List what can be loaded, or look into one model with `show`."""
    if context.invoked_subcommand is not None:
        return
    from clipkit.report import terminal

    terminal.out().print(terminal.rows(["name", "what it is"], [list(line) for line in KNOWN]))
    terminal.out().print("next   clipkit models show NAME")


@app.command("show")
def show(model: Annotated[str, typer.Argument(help="starter, or a folder.")]) -> None:
    """Say what a model is made of."""
    from clipkit.models import load
    from clipkit.report import terminal

    loaded = load(model)
    sizes = {
        part: sum(parameter.numel() for parameter in getattr(loaded, part).parameters())
        for part in ("image_tower", "text_tower", "image_projection", "text_projection")
    }
    image, text = (loaded.architecture[tower] for tower in ("image_tower", "text_tower"))
    lines = [
        ["name", loaded.name],
        ["image tower", f"{image['timm']}, {sizes['image_tower']:,} parameters"],
        ["text tower", f"{text['config']['model_type']}, {sizes['text_tower']:,} parameters"],
        ["image projection", f"{sizes['image_projection']:,} parameters"],
        ["text projection", f"{sizes['text_projection']:,} parameters"],
        ["joint space", f"{loaded.dim} numbers, {loaded.similarity}"],
        ["logit scale", f"{loaded.logit_scale.item():.2f}"],
        ["resolution", f"{loaded.preprocessing.size} pixels"],
        ["context length", f"{loaded.context_length} tokens"],
        ["fingerprint", loaded.fingerprint()],
    ]
    terminal.out().print(terminal.rows(["part", "what it is"], lines))
