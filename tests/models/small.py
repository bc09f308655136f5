"""Small models of every kind that LoRA and partial training have to reach."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from transformers import BertTokenizerFast

from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.open_clip_towers import (
    OpenClipImageTower,
    OpenClipTextTower,
    shortens,
    take_image_projection,
    take_text_projection,
)
from clipkit.models.tokenizers import TransformersTokenizer
from clipkit.types import Preprocessing
from tests.models.test_from_transformers import make_folder

SIZE = 32
HALF = (0.5, 0.5, 0.5)
VIT: dict[str, Any] = {
    "layers": 2,
    "width": 32,
    "head_width": 16,
    "patch_size": 8,
    "image_size": SIZE,
    "mlp_ratio": 2.0,
}
RESNET: dict[str, Any] = {"layers": [1, 2, 1, 1], "width": 16, "image_size": SIZE}
TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 30,
    "width": 32,
    "heads": 2,
    "layers": 3,
    "mlp_ratio": 2.0,
}
CUSTOM = {"block_type": "custom", "qk_norm": True}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "open_clip": (VIT, TEXT),
    "open_clip_custom": ({**VIT, **CUSTOM}, {**TEXT, **CUSTOM}),
    "open_clip_resnet": (RESNET, TEXT),
}
TRANSFORMERS = ("clip", "siglip", "align", "blip")
TOWERS = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext")


def open_clip_model(tokenizer: BertTokenizerFast, kind: str = "open_clip") -> DualEncoder:
    """Build a small model of open_clip, always with the same weights."""
    torch.manual_seed(0)
    vision, text = KINDS[kind]
    config = {"embed_dim": 16, "vision_cfg": dict(vision), "text_cfg": dict(text)}
    clip = open_clip.CustomTextCLIP(**config)
    image_projection = take_image_projection(clip.visual)
    text_projection = take_text_projection(clip.text)
    tokens = TransformersTokenizer(tokenizer, 16, mask=False)
    return DualEncoder(
        OpenClipImageTower(clip.visual),
        OpenClipTextTower(clip.text, shortens=shortens(clip.text, tokens)),
        image_projection,
        text_projection,
        tokenizer=tokens,
        preprocessing=Preprocessing(size=SIZE, mean=HALF, std=HALF),
        architecture={"kind": "open_clip", "dim": 16, "config": config, "text_config": None},
    ).eval()


def small_model(
    kind: str, make_model: Callable[..., DualEncoder], tokenizer: BertTokenizerFast
) -> DualEncoder:
    """Build a model by its kind: of open_clip, or a timm image tower and a BERT."""
    return open_clip_model(tokenizer, kind) if kind in KINDS else small_towers(kind, make_model)


def small_towers(image: str, make_model: Callable[..., DualEncoder]) -> DualEncoder:
    """Build a pair of towers, images large enough for each."""
    model = make_model(image=image)
    if image == "test_vit":
        model.preprocessing = Preprocessing(size=160, mean=HALF, std=HALF)
    return model


def transformers_model(kind: str, folder: Path) -> DualEncoder:
    """Build a small model of transformers, always with the same weights."""
    return load(f"hf:{make_folder(kind, folder / kind)}")


def encoded(model: DualEncoder) -> tuple[Tensor, Tensor]:
    """Encode two images and two texts, without gradients."""
    size = model.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    texts = ["a red cat", "the good picture of a dog"]
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(model.tokenize(texts))


def agreement(model: DualEncoder) -> Tensor:
    """Return something to minimise, with gradients: how far two pictures are from their texts."""
    size = model.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    tokens = model.tokenize(["a red cat", "the good picture of a dog"])
    logits = model.logit_scale * model.encode_image(images) @ model.encode_text(tokens).T
    return nn.functional.cross_entropy(logits, torch.arange(2))
