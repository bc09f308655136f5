"""The same weights in open_clip's model and in transformers' give the same features."""

from typing import Any

import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from clipkit.errors import ModelError
from clipkit.models.layouts import (
    clip_to_open_clip,
    clip_to_transformers,
    siglip_to_open_clip,
    siglip_to_transformers,
)

WIDTH, DIM, WORDS, CONTEXT = 64, 48, 99, 12


def scramble(model: nn.Module) -> Any:
    """Give every parameter a value of its own: what starts at zero or one would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def open_clip_vit(*, quick_gelu: bool) -> Any:
    return scramble(
        CustomTextCLIP(
            embed_dim=DIM,
            quick_gelu=quick_gelu,
            vision_cfg={
                "layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 8, "image_size": 32,
            },
            text_cfg={
                "layers": 2, "width": WIDTH, "heads": 2, "vocab_size": WORDS,
                "context_length": CONTEXT,
            },
        )
    )  # fmt: skip


def transformers_clip(*, quick_gelu: bool) -> Any:
    act = {"hidden_act": "quick_gelu" if quick_gelu else "gelu"}
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, **act}
    text = {"num_attention_heads": 2, "vocab_size": WORDS, "max_position_embeddings": CONTEXT}
    config = CLIPConfig(
        projection_dim=DIM,
        vision_config={**size, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
        text_config={**size, **text, "eos_token_id": WORDS - 1, "bos_token_id": 0},
    )
    return scramble(CLIPModel(config))


def open_clip_siglip() -> Any:
    return scramble(
        CustomTextCLIP(
            embed_dim=192,
            init_logit_bias=-10,
            vision_cfg={
                "timm_model_name": "vit_tiny_patch16_224",
                "image_size": 224, "timm_pool": "map", "timm_proj": "none",
            },
            text_cfg={
                "layers": 2, "width": WIDTH, "heads": 2, "vocab_size": WORDS,
                "context_length": CONTEXT, "no_causal_mask": True, "proj_bias": True,
                "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
            },
        )
    )  # fmt: skip


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_clip_gives_the_same_features_there_and_back(quick_gelu: bool) -> None:
    mine, theirs = open_clip_vit(quick_gelu=quick_gelu), transformers_clip(quick_gelu=quick_gelu)
    state = mine.state_dict()
    renamed = clip_to_transformers(state)
    theirs.load_state_dict(renamed)
    images = torch.randn(3, 3, 32, 32)
    tokens = torch.randint(1, WORDS - 1, (3, CONTEXT))
    tokens[:, 7], tokens[:, 8:] = WORDS - 1, 0
    with torch.inference_mode():
        expected = mine.encode_image(images), mine.encode_text(tokens)
        found = (
            theirs.get_image_features(images).pooler_output,
            theirs.get_text_features(tokens, attention_mask=torch.ones_like(tokens)).pooler_output,
        )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    back = clip_to_open_clip(renamed)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert clip_to_transformers(clip_to_open_clip(renamed)).keys() == renamed.keys()


def test_siglip_gives_the_same_features_there_and_back() -> None:
    mine = open_clip_siglip()
    assert sum(name.startswith("visual.trunk.blocks") for name in mine.state_dict()) == 12 * 12
    size = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
    config = SiglipConfig(
        vision_config={
            **size, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 3, "patch_size": 16, "image_size": 224,
        },
        text_config={
            **size, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": WORDS, "max_position_embeddings": CONTEXT,
            "projection_size": 192, "bos_token_id": 0, "eos_token_id": 1,
        },
    )  # fmt: skip
    theirs = SiglipModel(config).eval()
    state = {k: v for k, v in mine.state_dict().items() if "cls_token" not in k}
    position = state["visual.trunk.pos_embed"]
    state["visual.trunk.pos_embed"] = position[:, -196:]
    renamed = siglip_to_transformers(state)
    theirs.load_state_dict(renamed)
    tokens = torch.randint(1, WORDS, (3, CONTEXT))
    with torch.inference_mode():
        expected = mine.encode_text(tokens)
        found = theirs.get_text_features(tokens).pooler_output
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=1e-5)
    back = siglip_to_open_clip(renamed)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_what_has_no_counterpart_is_named() -> None:
    state = open_clip_vit(quick_gelu=False).state_dict()
    with pytest.raises(ModelError, match=r"visual\.extra \(and 0 more\) has no counterpart"):
        clip_to_transformers({**state, "visual.extra": torch.zeros(1)})
    with pytest.raises(ModelError, match="has no counterpart"):
        clip_to_open_clip({"vision_model.encoder.layers.0.odd.weight": torch.zeros(1)})
