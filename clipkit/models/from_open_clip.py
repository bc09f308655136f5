"""Models of open_clip: every architecture, tag and checkpoint that it knows, with equal features.

Which weights a name stands for is in `open_clip_files`, how towers are built in `open_clip_towers`,
how texts become tokens in `open_clip_tokenizers`.
"""

from typing import Any, NamedTuple

import torch

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder, Similarity
from clipkit.models.open_clip_files import (
    Activation,
    find_source,
    read_state,
    unknown_architecture,
)
from clipkit.models.open_clip_tokenizers import make_tokenizer
from clipkit.models.open_clip_towers import (
    OpenClipImageTower,
    OpenClipTextTower,
    build_open_clip,
    fill,
    shortens,
    take_image_projection,
    take_text_projection,
    text_config_of_transformers,
)
from clipkit.models.tokenizers import Tokenizer
from clipkit.types import Preprocessing, per_channel


class KnownModel(NamedTuple):
    """An architecture that open_clip knows.

    Attributes:
        name: what `clipkit.load` takes, less the tag.
        tags: of the weights that are published for it.
        resolution: side of the square that it sees, in pixels.
        context_length: the most tokens of a text that it reads.
        dim: width of the joint space.
    """

    name: str
    tags: tuple[str, ...]
    resolution: int
    context_length: int
    dim: int


def known_open_clip() -> list[KnownModel]:
    """Return the architectures that open_clip knows, by their configurations; none is built."""
    import open_clip

    known = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        known.append(
            KnownModel(
                name=f"open_clip:{name}",
                tags=tuple(open_clip.list_pretrained_tags_by_model(name)),
                resolution=config["vision_cfg"].get("image_size", 224),
                context_length=config["text_cfg"].get("context_length", 77),
                dim=config["embed_dim"],
            )
        )
    return known


def count_parameters(name: str) -> int:
    """Return how many parameters an architecture of open_clip has; no memory is filled.

    Args:
        name: as `known_open_clip` gives it.

    Raises:
        ModelError: when there is no such architecture, or its text tower is one of transformers
            whose configuration cannot be fetched.
    """
    import open_clip

    architecture = name.removeprefix("open_clip:")
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ModelError(unknown_architecture(architecture))
    text = text_config_of_transformers(config)
    with torch.device("meta"):
        model = build_open_clip(config, text)
    return sum(parameter.numel() for parameter in model.parameters())


def load_open_clip(spec: str, *, activation: Activation | None = None) -> DualEncoder:
    """Load a model of open_clip (https://github.com/mlfoundations/open_clip) with its features.

    Weights are only ever read as data: TorchScript archives and pickles with code are refused.

    Args:
        spec: one of

            - `ARCHITECTURE/TAG`, the published weights, such as "ViT-B-32/laion2b_s34b_b79k"; the
              tag decides the activation and how images are prepared
            - `hf-hub:ORG/REPOSITORY`, or a local folder, with an `open_clip_config.json`
            - `ARCHITECTURE/FILE` that ends in .pt, .pth, .bin or .safetensors; images are prepared
              as all tags of the architecture have it, or as CLIP has it where they do not agree
            - `ARCHITECTURE@random`, random weights

            each of which may end in `?activation=gelu` or `?activation=quick_gelu`.
        activation: of a file which does not say it, where the architecture exists with both.

    Returns:
        The model in evaluation mode on the CPU, in float32.

    Raises:
        ModelError: when there is no such model, a file cannot be read safely or does not fit, or
            it is not sure what it was trained with.

    Example:
        >>> model = load_open_clip("ViT-B-32@random")
        >>> model.context_length
        77
    """
    source = find_source(spec, activation)
    config = dict(source.config)
    state = None if source.weights is None else read_state(source.weights)
    if state is not None and "logit_bias" in state:  # trained with the sigmoid loss
        config.setdefault("init_logit_bias", state["logit_bias"].item())
    tokenizer = make_tokenizer(config["text_cfg"], source.tokenizer)
    text = text_config_of_transformers(config)
    clip = build_open_clip(config, text, draw=state is None)
    preprocessing = _preprocessing(source.preprocess, clip.visual.image_size, source.name)
    if state is not None:
        fill(clip, state, source=str(source.weights), published=source.published)
    query = f"?activation={activation}" if activation and "?" not in spec else ""
    name = f"open_clip:{spec}{query}"
    return _assemble(
        clip,
        {
            "kind": "open_clip",
            "dim": config["embed_dim"],
            "config": config,
            "text_config": text,
            "base": None if state is None else {"name": name},
        },
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        similarity="softmax" if clip.logit_bias is None else "sigmoid",
        name=name,
    ).eval()


def rebuild_open_clip(
    architecture: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity,
) -> DualEncoder:
    """Build what a model folder describes; all its weights are yet to be filled."""
    clip = build_open_clip(architecture["config"], architecture.get("text_config"), draw=False)
    return _assemble(
        clip,
        architecture,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        similarity=similarity,
    )


def _assemble(
    clip: Any,
    architecture: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity,
    name: str = "",
) -> DualEncoder:
    """Part an open_clip model into towers and projections."""
    image_projection = take_image_projection(clip.visual)
    text_projection = take_text_projection(clip.text)
    model = DualEncoder(
        OpenClipImageTower(clip.visual),
        OpenClipTextTower(clip.text, shortens=shortens(clip.text, tokenizer)),
        image_projection,
        text_projection,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        architecture=architecture,
        similarity=similarity,
        name=name,
    )
    with torch.no_grad():
        model.log_logit_scale.copy_(clip.logit_scale.squeeze())
        if model.logit_bias_parameter is not None and clip.logit_bias is not None:
            model.logit_bias_parameter.copy_(clip.logit_bias.squeeze())
    return model


def _preprocessing(settings: dict[str, Any], size: Any, name: str) -> Preprocessing:
    """Translate open_clip's settings of how images are prepared."""
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise ModelError(f"{name} sees images of {height} x {width} pixels: only squares are read")
    if settings["resize_mode"] not in ("shortest", "squash"):
        raise ModelError(
            f"{name} has resize_mode {settings['resize_mode']!r}; known: shortest, squash"
        )
    return Preprocessing(
        size=int(height),
        mean=per_channel(settings["mean"]),
        std=per_channel(settings["std"]),
        interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        resize=settings["resize_mode"],
    )
