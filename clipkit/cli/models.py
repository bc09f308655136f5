"""`clipkit models`: which models can be loaded, and what is in one."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipkit.models import DualEncoder

app = typer.Typer(help="List models, or look into one.", no_args_is_help=False)

KNOWN = (
    ("starter", "EfficientNet-Lite0 + MiniLM-L6, 28 M parameters, works offline"),
    ("FOLDER", "a model that clipkit saved, such as runs/openmoji/model"),
    ("open_clip:ARCHITECTURE/TAG", "a model of open_clip, see `clipkit models list`"),
    ("open_clip:ARCHITECTURE/FILE.pt", "its weights in a file of your own, or a FOLDER of it"),
    (
        "hf:NAME",
        "CLIP, SigLIP and their kin on the hub or in a folder, such as"
        " hf:google/siglip2-base-patch16-224",
    ),
    (
        "towers:IMAGE+TEXT",
        "a timm image tower and a transformers text tower, to be trained, such as"
        " towers:vit_small_patch16_224+sentence-transformers/all-MiniLM-L6-v2",
    ),
)

COUNTED = 12
"""Of up to so many architectures the parameters are counted, which takes a second each."""


@app.callback(invoke_without_command=True)
def kinds(context: typer.Context) -> None:
    """Say what can be loaded, `list` open_clip's models, or `show` what one model is made of."""
    if context.invoked_subcommand is not None:
        return
    from clipkit.report import terminal

    terminal.out().print(terminal.rows(["name", "what it is"], [list(line) for line in KNOWN]))
    terminal.out().print(
        "next   clipkit models list siglip, clipkit models show NAME", markup=False
    )


@app.command("list")
def list_models(
    containing: Annotated[
        list[str] | None,
        typer.Argument(help="Only names and tags with all of these, such as b-16 datacomp."),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Only models that see squares of so many pixels.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Only models that read at least so many tokens.")
    ] = None,
) -> None:
    """List the architectures of open_clip and the tags of their weights."""
    from clipkit.errors import ModelError
    from clipkit.models.from_open_clip import known_open_clip
    from clipkit.report import terminal

    words = [word.lower() for word in containing or []]
    found = []
    for model in known_open_clip():
        tags = [tag for tag in model.tags or ("",) if _has(f"{model.name}/{tag}", words)]
        if not tags or resolution not in (None, model.resolution):
            continue
        if context is None or model.context_length >= context:
            found.append((model, tags))
    if not found:
        raise ModelError("no model of open_clip fits; `clipkit models list` has them all")
    counted = len(found) <= COUNTED
    lines = [
        [
            model.name,
            _parameters(model.name) if counted else "",
            f"{model.resolution}",
            f"{model.context_length}",
            f"{model.dim}",
            ", ".join(tags) or "-",
        ]
        for model, tags in found
    ]
    columns = ["name", "parameters", "pixels", "tokens", "dim", "tags"]
    if not counted:
        columns, lines = [columns[0], *columns[2:]], [[line[0], *line[2:]] for line in lines]
    terminal.out().print(terminal.rows(columns, lines))
    first, tags = found[0]
    name = f"{first.name}/{tags[0]}" if tags[0] else f"{first.name}@random"
    terminal.out().print(f"next   clipkit models show {name}", markup=False, soft_wrap=True)


def _parameters(name: str) -> str:
    """Say how many parameters an architecture has, where that can be known offline."""
    from clipkit.errors import ModelError
    from clipkit.models.from_open_clip import count_parameters

    try:
        return f"{count_parameters(name) / 1e6:.0f} M"
    except ModelError:
        return "?"


def _has(name: str, words: list[str]) -> bool:
    return all(word in name.lower() for word in words)


@app.command("show")
def show(model: Annotated[str, typer.Argument(help="A name of `clipkit models`.")]) -> None:
    """Say what a model is made of."""
    from clipkit.models import load
    from clipkit.models.trainable import count_parameters
    from clipkit.report import terminal

    loaded = load(model)
    sizes = {part: sum(counts) for part, counts in count_parameters(loaded).items()}
    image, text = _towers(loaded)
    lines = [
        ["name", loaded.name],
        ["image tower", f"{image}, {sizes['image_tower']:,} parameters"],
        ["text tower", f"{text}, {sizes['text_tower']:,} parameters"],
        ["image projection", f"{sizes['image_projection']:,} parameters"],
        ["text projection", f"{sizes['text_projection']:,} parameters"],
        ["joint space", f"{loaded.dim} numbers, {loaded.similarity}"],
        ["logit scale", f"{loaded.logit_scale.item():.2f}"],
        ["resolution", f"{loaded.preprocessing.size} pixels, {loaded.preprocessing.resize}"],
        ["context length", f"{loaded.context_length} tokens"],
        ["fingerprint", loaded.fingerprint()],
    ]
    terminal.out().print(terminal.rows(["part", "what it is"], lines))


def _towers(model: "DualEncoder") -> tuple[str, str]:
    """Say what the two towers are, by the library that they are from."""
    architecture = model.architecture
    if architecture["kind"] == "paired_towers":
        text = architecture["text_tower"]["config"]["model_type"]
        return architecture["image_tower"]["timm"], text
    config = architecture["config"]
    if architecture["kind"] == "transformers":
        return f"{config['model_type']} vision", f"{config['model_type']} text"
    activation = "QuickGELU" if config.get("quick_gelu") else "GELU"
    image = config["vision_cfg"].get("timm_model_name") or f"open_clip, {activation}"
    return image, config["text_cfg"].get("hf_model_name") or f"open_clip, {activation}"
