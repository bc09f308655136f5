"""The same weights under the names of open_clip and of transformers, for CLIP's ViTs and SigLIP.

A state is a mapping of names to tensors: open_clip's with its text tower apart (`CustomTextCLIP`),
and that of transformers' `CLIPModel` or `SiglipModel`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipkit.errors import ModelError

State = dict[str, Tensor]

# open_clip's block, and the names below transformers' `encoder.layers.N`.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# timm's block, likewise.
_TIMM_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_QKV = ("q_proj", "k_proj", "v_proj")

_CLIP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text.ln_final.weight": "text_model.final_layer_norm.weight",
    "text.ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_CLIP_TURNED = {
    "visual.proj": "visual_projection.weight",
    "text.text_projection": "text_projection.weight",
}

_POOL = "visual.trunk.attn_pool"
_HEAD = "vision_model.head"
_SIGLIP = {
    "visual.trunk.patch_embed.proj.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.trunk.patch_embed.proj.bias": "vision_model.embeddings.patch_embedding.bias",
    "visual.trunk.norm.weight": "vision_model.post_layernorm.weight",
    "visual.trunk.norm.bias": "vision_model.post_layernorm.bias",
    f"{_POOL}.latent": f"{_HEAD}.probe",
    f"{_POOL}.proj.weight": f"{_HEAD}.attention.out_proj.weight",
    f"{_POOL}.proj.bias": f"{_HEAD}.attention.out_proj.bias",
    f"{_POOL}.norm.weight": f"{_HEAD}.layernorm.weight",
    f"{_POOL}.norm.bias": f"{_HEAD}.layernorm.bias",
    f"{_POOL}.mlp.fc1.weight": f"{_HEAD}.mlp.fc1.weight",
    f"{_POOL}.mlp.fc1.bias": f"{_HEAD}.mlp.fc1.bias",
    f"{_POOL}.mlp.fc2.weight": f"{_HEAD}.mlp.fc2.weight",
    f"{_POOL}.mlp.fc2.bias": f"{_HEAD}.mlp.fc2.bias",
    "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text.ln_final.weight": "text_model.final_layer_norm.weight",
    "text.ln_final.bias": "text_model.final_layer_norm.bias",
    "text.text_projection.weight": "text_model.head.weight",
    "text.text_projection.bias": "text_model.head.bias",
}


def clip_to_transformers(state: Mapping[str, Tensor]) -> State:
    """Rename an open_clip ViT with a causal text tower for transformers' `CLIPModel`.

    Raises:
        ModelError: the state has a tensor that such a model does not have.
    """
    left = dict(state)
    found = {new: left.pop(old) for old, new in _CLIP.items() if old in left}
    for old, new in _CLIP_TURNED.items():
        if old in left:
            found[new] = left.pop(old).T.contiguous()
    _blocks_out(
        left, found, "visual.transformer.resblocks", "vision_model", _BLOCK, "attn.in_proj_"
    )
    _blocks_out(left, found, "text.transformer.resblocks", "text_model", _BLOCK, "attn.in_proj_")
    return _all(found, left)


def clip_to_open_clip(state: Mapping[str, Tensor]) -> State:
    """Rename transformers' `CLIPModel` for open_clip: the way back of `clip_to_transformers`."""
    left = {k: v for k, v in state.items() if not k.endswith("position_ids")}
    found = {old: left.pop(new) for old, new in _CLIP.items() if new in left}
    for old, new in _CLIP_TURNED.items():
        if new in left:
            found[old] = left.pop(new).T.contiguous()
    _blocks_in(left, found, "vision_model", "visual.transformer.resblocks", _BLOCK, "attn.in_proj_")
    _blocks_in(left, found, "text_model", "text.transformer.resblocks", _BLOCK, "attn.in_proj_")
    return _all(found, left)


def siglip_to_transformers(state: Mapping[str, Tensor]) -> State:
    """Rename an open_clip SigLIP, whose image tower is timm's, for transformers' `SiglipModel`."""
    left = dict(state)
    found = {new: left.pop(old) for old, new in _SIGLIP.items() if old in left}
    position = "vision_model.embeddings.position_embedding.weight"
    found[position] = left.pop("visual.trunk.pos_embed")[0]
    for part in ("weight", "bias"):
        queries, rest = left.pop(f"{_POOL}.q.{part}"), left.pop(f"{_POOL}.kv.{part}")
        found[f"{_HEAD}.attention.in_proj_{part}"] = torch.cat([queries, rest])
    for name in ("logit_scale", "logit_bias"):
        found[name] = left.pop(name).reshape(1)
    _blocks_out(left, found, "visual.trunk.blocks", "vision_model", _TIMM_BLOCK, "attn.qkv.")
    _blocks_out(left, found, "text.transformer.resblocks", "text_model", _BLOCK, "attn.in_proj_")
    return _all(found, left)


def siglip_to_open_clip(state: Mapping[str, Tensor]) -> State:
    """Rename transformers' `SiglipModel` for open_clip: `siglip_to_transformers` the other way."""
    left = {k: v for k, v in state.items() if not k.endswith("position_ids")}
    found = {old: left.pop(new) for old, new in _SIGLIP.items() if new in left}
    position = "vision_model.embeddings.position_embedding.weight"
    found["visual.trunk.pos_embed"] = left.pop(position)[None]
    for part in ("weight", "bias"):
        joined = left.pop(f"{_HEAD}.attention.in_proj_{part}")
        queries = len(joined) // 3
        found[f"{_POOL}.q.{part}"], found[f"{_POOL}.kv.{part}"] = joined[:queries], joined[queries:]
    for name in ("logit_scale", "logit_bias"):
        found[name] = left.pop(name).reshape(())
    _blocks_in(left, found, "vision_model", "visual.trunk.blocks", _TIMM_BLOCK, "attn.qkv.")
    _blocks_in(left, found, "text_model", "text.transformer.resblocks", _BLOCK, "attn.in_proj_")
    return _all(found, left)


def _blocks_out(
    left: State, found: State, blocks: str, part: str, names: Mapping[str, str], fused: str
) -> None:
    """Rename the blocks of one tower for transformers, and part their fused projections."""
    for name in [name for name in left if name.startswith(f"{blocks}.")]:
        number, _, below = name[len(blocks) + 1 :].partition(".")
        layer = f"{part}.encoder.layers.{number}"
        module, _, kind = below.rpartition(".")
        if below.startswith(fused):
            kind = below.removeprefix(fused)
            for projection, share in zip(_QKV, left.pop(name).chunk(3), strict=True):
                found[f"{layer}.self_attn.{projection}.{kind}"] = share.contiguous()
        elif module in names:
            found[f"{layer}.{names[module]}.{kind}"] = left.pop(name)


def _blocks_in(
    left: State, found: State, part: str, blocks: str, names: Mapping[str, str], fused: str
) -> None:
    """Rename the blocks of one tower for open_clip, and join their projections."""
    back = {new: old for old, new in names.items()}
    layers = re.compile(rf"{part}\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
    for name in list(left):
        matched = layers.fullmatch(name)
        if matched is None or name not in left:
            continue
        number, module, kind = matched.groups()
        if module in back:
            found[f"{blocks}.{number}.{back[module]}.{kind}"] = left.pop(name)
        elif module.removeprefix("self_attn.") in _QKV:
            attention = f"{part}.encoder.layers.{number}.self_attn"
            parts = [left.pop(f"{attention}.{projection}.{kind}") for projection in _QKV]
            found[f"{blocks}.{number}.{fused}{kind}"] = torch.cat(parts)


def _all(found: State, left: Mapping[str, Any]) -> State:
    if left:
        raise ModelError(
            f"the weights cannot be renamed: {next(iter(left))} (and {len(left) - 1} more) has no"
            " counterpart"
        )
    return found
