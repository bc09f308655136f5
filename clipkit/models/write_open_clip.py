"""Models as open_clip reads them."""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.layouts import State, clip_to_open_clip, siglip_to_open_clip
from clipkit.models.open_clip_files import CONFIG
from clipkit.models.open_clip_tokenizers import OpenClipTokenizer
from clipkit.models.paired_towers import find_image_model
from clipkit.models.states import open_clip_state, transformers_state
from clipkit.models.write_transformers import write_tokenizer
from clipkit.types import Preprocessing

WEIGHTS = "open_clip_model.safetensors"

_ACTIVATIONS = ("gelu", "quick_gelu", "gelu_pytorch_tanh")


def write_open_clip(model: DualEncoder, folder: Path) -> str:
    """Write a model as open_clip reads it (`local-dir:FOLDER`).

    Args:
        model: of open_clip, or a CLIP or SigLIP of transformers.
        folder: made if it is not there.

    Returns:
        What `clipkit.load` takes to read it back.

    Raises:
        ModelError: open_clip has no such model.
    """
    kind = model.architecture.get("kind")
    if kind == "open_clip":
        config = copy.deepcopy(model.architecture["config"])
        if model.architecture.get("text_config") is not None:
            raise ModelError(
                "open_clip: a model whose text tower is transformers' cannot be written"
            )
        state = open_clip_state(model)
    elif kind == "transformers":
        config, state = _from_transformers(model)
    else:
        raise ModelError(f"open_clip: it has no models of kind {kind}, such as {model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    config["custom_text"] = True  # the names of the weights are those of its class for that
    if not isinstance(model.tokenizer, OpenClipTokenizer):
        write_tokenizer(model.tokenizer, folder)
        config["text_cfg"].setdefault("hf_tokenizer_name", "tokenizer.json")
    described = {"model_cfg": config, "preprocess_cfg": _preprocess_config(model.preprocessing)}
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
    return f"open_clip:{folder}"


def _from_transformers(model: DualEncoder) -> tuple[dict[str, Any], State]:
    config = model.architecture["config"]
    kind = config["model_type"]
    state = transformers_state(model)
    vision, text = config["vision_config"], config["text_config"]
    if kind == "siglip":
        trunk = _timm_name(vision)
        settings = {
            "embed_dim": vision["hidden_size"],
            "init_logit_bias": float(state["logit_bias"]),
            "vision_cfg": {
                "image_size": vision["image_size"],
                "timm_model_name": trunk,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **_open_clip_text(text),
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
            },
        }
        return settings, siglip_to_open_clip(state)
    if kind != "clip":
        raise ModelError(f"open_clip: it has no models of transformers' type {kind}")
    head = vision["hidden_size"] // vision["num_attention_heads"]
    settings = {
        "embed_dim": config["projection_dim"],
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": head,
            "patch_size": vision["patch_size"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            "norm_kwargs": {"eps": vision["layer_norm_eps"]},
            **_approximation(vision["hidden_act"]),
        },
        "text_cfg": _open_clip_text(text),
    }
    if (text["hidden_act"] == "quick_gelu") != settings["quick_gelu"]:
        raise ModelError("open_clip: its two towers have one activation, and here they have two")
    return settings, clip_to_open_clip(state)


def _open_clip_text(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
        "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        "norm_kwargs": {"eps": text["layer_norm_eps"]},
        **_approximation(text["hidden_act"]),
    }


def _timm_name(vision: dict[str, Any]) -> str:
    """Return timm's name of a SigLIP image tower of certain sizes.

    Raises:
        ModelError: timm has none.
    """
    wanted = tuple(
        vision[key] for key in ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
    )
    tanh = vision["hidden_act"] == "gelu_pytorch_tanh"

    def fits(trunk: Any) -> bool:
        patches, act = trunk.patch_embed, trunk.blocks[0].mlp.act
        sizes = (trunk.embed_dim, len(trunk.blocks), patches.patch_size[0], patches.img_size[0])
        return sizes == wanted and (getattr(act, "approximate", "none") == "tanh") == tanh

    if name := find_image_model("*siglip*", fits):
        return name
    raise ModelError(
        "open_clip: timm has no SigLIP tower of width, depth, patch and image size"
        f" {', '.join(map(str, wanted))} with the activation {vision['hidden_act']}"
    )


def _approximation(activation: str) -> dict[str, Any]:
    """Return open_clip's option for an activation of transformers' name."""
    if activation not in _ACTIVATIONS:
        raise ModelError(f"open_clip: it has no activation {activation!r}")
    return {"act_kwargs": {"approximate": "tanh"}} if activation == "gelu_pytorch_tanh" else {}


def _preprocess_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Say how images are prepared under open_clip's names."""
    if preprocessing.resize_to not in (None, preprocessing.size):
        raise ModelError(
            f"open_clip: images cannot be scaled to {preprocessing.resize_to} pixels and cropped"
            f" to {preprocessing.size}"
        )
    told = asdict(preprocessing)
    return {
        "size": [told["size"], told["size"]],
        "mode": "RGB",
        "mean": list(told["mean"]),
        "std": list(told["std"]),
        "interpolation": told["interpolation"],
        "resize_mode": told["resize"],
        "fill_color": 0,
    }
