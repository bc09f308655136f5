"""Models as transformers reads them."""

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipImageProcessor,
)

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.layouts import State, clip_to_transformers, siglip_to_transformers
from clipkit.models.open_clip_tokenizers import OpenClipTokenizer
from clipkit.models.states import open_clip_state, transformers_state
from clipkit.models.tokenizers import Tokenizer, TransformersTokenizer
from clipkit.types import Preprocessing

_RESAMPLE = {"bilinear": 2, "bicubic": 3}
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~"

# Options of open_clip's towers that change nothing of what the layouts say, or that are read below.
_SAID_VISION = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "act_kwargs",
    "norm_kwargs", "patch_dropout", "output_tokens",
}  # fmt: skip
_SAID_TEXT = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs",
    "norm_kwargs", "hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id", "output_tokens",
}  # fmt: skip


def write_transformers(model: DualEncoder, folder: Path) -> str:
    """Write a model as transformers reads it: weights, configuration, tokenizer, image processor.

    Args:
        model: of transformers, or an open_clip ViT with a causal text tower, or a SigLIP of it.
        folder: made if it is not there.

    Returns:
        What `clipkit.load` takes to read it back.

    Raises:
        ModelError: transformers has no such model.
    """
    kind = model.architecture.get("kind")
    if kind == "transformers":
        settings = dict(model.architecture["config"])
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        state = transformers_state(model)
    elif kind == "open_clip":
        config, state = _from_open_clip(model)
    else:
        raise ModelError(f"transformers: it has no models of kind {kind}, such as {model.name}")
    whole = AutoModel.from_config(config, trust_remote_code=False)
    try:
        whole.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"transformers: the weights do not fit its model: {reason}") from None
    folder.mkdir(parents=True, exist_ok=True)
    whole.eval().save_pretrained(folder)
    write_tokenizer(model.tokenizer, folder)
    _image_processor(model.preprocessing).save_pretrained(folder)
    return f"hf:{folder}"


def _from_open_clip(model: DualEncoder) -> tuple[Any, State]:
    config = model.architecture["config"]
    state = open_clip_state(model)
    if any(name.startswith("visual.trunk.") for name in state):
        return _siglip_config(model, config), siglip_to_transformers(state)
    _only_known(config["vision_cfg"], _SAID_VISION, "vision_cfg")
    _only_known(config["text_cfg"], _SAID_TEXT, "text_cfg", pool_type="argmax")
    renamed = clip_to_transformers(state)
    vision, text = config["vision_cfg"], config["text_cfg"]
    width = vision["width"]
    heads = width // vision.get("head_width", 64)
    tokens = text.get("vocab_size", 49408)
    return CLIPConfig(
        projection_dim=config["embed_dim"],
        logit_scale_init_value=float(state["logit_scale"]),
        vision_config={
            **_size(width, vision["layers"], heads, vision),
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
            "hidden_act": _activation(config, vision),
            "projection_dim": config["embed_dim"],
        },
        text_config={
            **_size(text.get("width", 512), text.get("layers", 12), text.get("heads", 8), text),
            "vocab_size": tokens,
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_act": _activation(config, text),
            "projection_dim": config["embed_dim"],
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
            "pad_token_id": tokens - 1,
        },
    ), renamed


def _siglip_config(model: DualEncoder, config: dict[str, Any]) -> SiglipConfig:
    text = config["text_cfg"]
    _only_known(text, _SAID_TEXT, "text_cfg", pool_type="last", no_causal_mask=True, proj_bias=True)
    trunk = model.image_tower.get_submodule("model.trunk")
    block: Any = trunk.get_submodule("blocks.0")
    width = int(block.attn.proj.out_features)
    approximate = getattr(block.mlp.act, "approximate", "none")
    patches: Any = trunk.get_submodule("patch_embed")
    vocabulary = text.get("vocab_size", 49408)
    size = _size(text.get("width", 512), text.get("layers", 12), text.get("heads", 8), text)
    return SiglipConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": int(block.mlp.fc1.out_features),
            "num_hidden_layers": len(list(trunk.get_submodule("blocks").children())),
            "num_attention_heads": int(block.attn.num_heads),
            "patch_size": int(patches.patch_size[0]),
            "image_size": int(patches.img_size[0]),
            "hidden_act": "gelu_pytorch_tanh" if approximate == "tanh" else "gelu",
            "layer_norm_eps": float(block.norm1.eps),
        },
        text_config={
            **size,
            "vocab_size": vocabulary,
            "max_position_embeddings": text.get("context_length", 77),
            "projection_size": config["embed_dim"],
            "hidden_act": _activation(config, text),
            "pad_token_id": min(1, vocabulary - 1),
            "bos_token_id": None,
            "eos_token_id": min(1, vocabulary - 1),
        },
    )


def _only_known(config: dict[str, Any], known: set[str], where: str, **values: Any) -> None:
    """Refuse an option that transformers' model does not have."""
    for key, value in config.items():
        if key in known or not value or (key in values and values[key] == value):
            continue
        raise ModelError(f"transformers: it has no model with {where}.{key} = {value!r}")
    for key, value in values.items():
        if config.get(key, value if key == "pool_type" and value == "argmax" else None) != value:
            raise ModelError(f"transformers: it has no model without {where}.{key} = {value!r}")


def _size(width: int, layers: int, heads: int, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": int(width * config.get("mlp_ratio", 4.0)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "layer_norm_eps": (config.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def _activation(config: dict[str, Any], tower: dict[str, Any]) -> str:
    """Return transformers' name of a tower's activation."""
    if config.get("quick_gelu"):
        return "quick_gelu"
    approximate = (tower.get("act_kwargs") or {}).get("approximate", "none")
    return "gelu_pytorch_tanh" if approximate == "tanh" else "gelu"


def _image_processor(preprocessing: Preprocessing) -> Any:
    """Return transformers' image processor for a model."""
    size = preprocessing.size
    common = {
        "resample": _RESAMPLE[preprocessing.interpolation],
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.resize == "squash" and preprocessing.resize_to in (None, size):
        return SiglipImageProcessor(size={"height": size, "width": size}, **common)
    if preprocessing.resize == "squash":
        side = preprocessing.resize_to
        square, crop = {"height": side, "width": side}, {"height": size, "width": size}
        return CLIPImageProcessor(size=square, crop_size=crop, **common)
    return CLIPImageProcessor(
        size={"shortest_edge": preprocessing.resize_to or size},
        crop_size={"height": size, "width": size},
        **common,
    )


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer of transformers that gives the same tokens.

    Raises:
        ModelError: transformers has no such tokenizer.
    """
    if isinstance(tokenizer, OpenClipTokenizer):
        _clip_tokenizer(tokenizer).save_pretrained(folder)
        return
    if type(tokenizer) is not TransformersTokenizer:
        raise ModelError(f"transformers: it has no tokenizer such as {type(tokenizer).__name__}")
    inner: PreTrainedTokenizerBase = copy.deepcopy(tokenizer.tokenizer)
    inner.model_max_length = tokenizer.context_length
    if tokenizer.clean == "open_clip_canonicalize":
        backend = inner.backend_tokenizer
        punctuation = Regex("[" + "".join(f"\\{mark}" for mark in _PUNCTUATION) + "]")
        steps = [
            normalizers.Replace("_", " "),
            normalizers.Replace(punctuation, ""),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
        own = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([*steps, *own])
    inner.save_pretrained(folder)
    if not tokenizer.mask:  # which its library reads, but does not write
        path = folder / "tokenizer_config.json"
        told = {**json.loads(path.read_text()), "model_input_names": ["input_ids"]}
        path.write_text(json.dumps(told, indent=2) + "\n")


def _clip_tokenizer(tokenizer: OpenClipTokenizer) -> PreTrainedTokenizerBase:
    """Return CLIP's tokenizer with the vocabulary that comes with open_clip."""
    if tokenizer.clean != "lower" or tokenizer.special_tokens:
        raise ModelError("transformers: CLIP's tokenizer cleans texts in one way, and not in this")
    own = tokenizer.tokenizer
    names = {own.sot_token_id: "<|startoftext|>", own.eot_token_id: "<|endoftext|>"}
    vocabulary = {names.get(number, word): number for word, number in own.encoder.items()}
    merges = [tuple(pair) for pair in sorted(own.bpe_ranks, key=own.bpe_ranks.get)]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokenizer.context_length)
