"""open_clip's towers: built from a configuration, filled, and parted from their projections."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig

from clipkit.errors import ModelError
from clipkit.models.last_block import answer_for_one, reading
from clipkit.models.open_clip_tokenizers import FramedTokenizer
from clipkit.models.tokenizers import Tokenizer, Tokens, TransformersTokenizer

SETTINGS = (
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
)
"""What of a configuration concerns the two towers; CoCa's also describes a decoder."""


DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.erfinv_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
}
"""What draws the random weights of a new model."""

PLACES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "first": lambda inputs, _: inputs.new_zeros(inputs.shape[0], dtype=torch.long),
    "last": lambda ids, _: ids.new_full((ids.shape[0],), ids.shape[1] - 1),
    "argmax": lambda ids, _: ids.argmax(1),
    "eos": lambda ids, eos: (ids == eos).int().argmax(1),
}
"""Where the token is that a tower pools, by open_clip's name of the rule for texts."""


class OpenClipImageTower(nn.Module):
    """An image tower of open_clip, parted from its projection.

    Args:
        model: `visual` of an open_clip model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model
        self.reads = _answer_for_one(model)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the pooled features."""
        with _reading(self.model, self.reads, images):
            features: Tensor = self.model(images)
        return features


class OpenClipTextTower(nn.Module):
    """A text tower of open_clip, parted from its projection.

    Args:
        model: `text` of an open_clip model.
        shortens: padding changes nothing, so that texts need no more than their length.
    """

    def __init__(self, model: nn.Module, *, shortens: bool) -> None:
        """Keep the model; its mask follows the length of the texts from now on."""
        super().__init__()
        self.model = model
        self.shortens = shortens
        self.reads = _answer_for_one(model)
        if getattr(model, "attn_mask", None) is not None:
            model.get_submodule("transformer").register_forward_pre_hook(_cut, with_kwargs=True)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return one vector for each text."""
        ids = tokens["input_ids"]
        with _reading(self.model, self.reads, ids):
            features: Tensor = self.model(ids)
        return features


def _answer_for_one(tower: Any) -> str | None:
    """Have the last block compute the one token that a tower reads, where it reads one.

    Returns:
        Which of `PLACES` has it; none where all tokens are read, or the block is of another kind.
    """
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer

    reads = None
    if type(tower) is VisionTransformer and tower.attn_pool is None and tower.pool_type == "tok":
        reads = "first"
    if type(tower) is TextTransformer and tower.cls_emb is None and tower.pool_type in PLACES:
        reads = tower.pool_type
    if reads is None or type(tower.transformer.resblocks[-1]) is not ResidualAttentionBlock:
        return None
    answer_for_one(tower.transformer.resblocks[-1])
    return reads


def _reading(tower: Any, reads: str | None, inputs: Tensor) -> AbstractContextManager[None]:
    """Return what to enter while a tower computes; checkpointing would come back outside it."""
    if reads is None or tower.transformer.grad_checkpointing:
        return nullcontext()
    return reading(PLACES[reads](inputs, getattr(tower, "eos_id", 0)))


def _cut(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cut a causal mask to the length of the texts."""
    length = args[0].shape[1]
    return args, {**kwargs, "attn_mask": kwargs["attn_mask"][..., :length, :length]}


def text_config_of_transformers(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of a text tower that transformers builds; none for the others.

    Raises:
        ModelError: when it cannot be found.
    """
    name = config["text_cfg"].get("hf_model_name")
    if not name:
        return None
    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"transformers cannot load the text tower {name!r}: {reason}") from None
    return found


class _Undrawn(TorchFunctionMode):
    """Draws no random weights, which for large models takes longer than to read theirs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build_open_clip(
    config: Mapping[str, Any], text: Mapping[str, Any] | None, *, draw: bool = True
) -> Any:
    """Build what a configuration describes: `visual`, `text`, logit scale and bias.

    Args:
        config: open_clip's model configuration.
        text: what `text_config_of_transformers` gave.
        draw: draw random weights; else they are whatever was in memory, and all must be filled.

    Raises:
        ModelError: when open_clip cannot build it.
    """
    import open_clip

    settings = {key: config[key] for key in SETTINGS if key in config}
    plain = {"output_tokens": False}
    with tempfile.TemporaryDirectory() as folder:
        settings["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False, **plain}
        settings["text_cfg"] = {**config["text_cfg"], "hf_model_pretrained": False, **plain}
        if text is not None:  # by a file, so that a saved model needs no hub
            (Path(folder) / "config.json").write_text(json.dumps(dict(text)))
            settings["text_cfg"]["hf_model_name"] = folder
        try:
            with nullcontext() if draw else _Undrawn():
                return open_clip.CustomTextCLIP(**settings)
        except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, OSError) as error:
            raise ModelError(f"open_clip cannot build this model: {error}") from None


def fill(
    model: nn.Module, state: dict[str, Tensor], *, source: str, published: bool = False
) -> None:
    """Load weights into what `build_open_clip` gave, converted from the layouts open_clip reads.

    Args:
        model: changed in place.
        state: weights by their names.
        source: how messages call them.
        published: they are a tag's, which open_clip also resizes to the architecture.

    Raises:
        ModelError: when they do not fit.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    state = convert_state_dict(model, state)
    if "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    position_ids = "text.transformer.embeddings.position_ids"  # transformers no longer keeps them
    if position_ids not in own:
        state.pop(position_ids, None)
    state = {name: value for name, value in state.items() if not name.startswith("text_decoder.")}
    for name in {"logit_scale", "logit_bias"} & set(state) & set(own):
        state[name] = state[name].reshape(own[name].shape)
    if published:
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        if "logit_bias" in own:
            state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        _listed("lacks", [name for name in own if name not in state]),
        _listed("has the unknown", [name for name in state if name not in own]),
        _listed("", shapes),
    ]
    if any(problems):
        raise ModelError(f"{source} does not fit the model: {'; '.join(filter(None, problems))}")
    model.load_state_dict(state)


def _listed(what: str, names: list[str]) -> str:
    """Return the first few names and how many there are."""
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}".strip()


class _AsIs(nn.Module):
    """Stands for a linear layer that changes nothing, where only its tensors are read."""

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(features), persistent=False)
        self.register_buffer("bias", torch.zeros(features), persistent=False)


def take_image_projection(visual: Any) -> nn.Module:
    """Take the last projection out of an image tower, where it can be told from the rest."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    if isinstance(visual, ModifiedResNet):
        pool = visual.attnpool
        projection: nn.Linear = pool.c_proj
        pool.c_proj = _AsIs(projection.in_features)
        return projection
    if not isinstance(visual, TimmModel):
        return _taken(visual, "proj")
    for name in ("proj", "mlp"):
        if hasattr(visual.head, name):
            return _taken(visual.head, name, nn.Identity())
    classifier = visual.trunk.get_classifier()
    if len(visual.head) or not isinstance(classifier, nn.Linear):
        return nn.Identity()  # attention pooling that ends in a projection of its own, or none
    visual.trunk.reset_classifier(0)
    return classifier


def take_text_projection(text: Any) -> nn.Module:
    """Take the last projection out of a text tower."""
    if hasattr(text, "text_projection"):
        return _taken(text, "text_projection")
    return _taken(text, "proj", nn.Identity())


def _taken(owner: nn.Module, name: str, instead: nn.Module | None = None) -> nn.Module:
    """Take a module or a matrix out of its owner; a matrix becomes a linear layer."""
    found = getattr(owner, name)
    setattr(owner, name, instead)
    if not isinstance(found, Tensor):
        return nn.Identity() if found is None else found
    linear = nn.Linear(found.shape[0], found.shape[1], bias=False)
    linear.weight = nn.Parameter(found.detach().T.contiguous())
    return linear


def shortens(text: Any, tokenizer: Tokenizer) -> bool:
    """Tell whether padding at the end changes nothing of what a text tower of open_clip gives.

    A causal tower read at a token of the text never sees the padding. A tower of transformers masks
    it, if it takes the tokenizer's padding for such. Others see it, or are read at the last place,
    or, like CoCa's, have a token of their own behind it.
    """
    if isinstance(tokenizer, FramedTokenizer):
        pad, right = tokenizer.pad, not tokenizer.finals
    elif isinstance(tokenizer, TransformersTokenizer):
        pad = tokenizer.tokenizer.pad_token_id
        right = tokenizer.tokenizer.padding_side == "right"
    else:
        return False
    if not right:
        return False
    if not hasattr(text, "attn_mask"):  # of transformers
        return bool(text.config.pad_token_id == pad)
    if text.attn_mask is None or text.cls_emb is not None:
        return False
    reads = {"first": True, "argmax": pad == 0, "eos": bool(pad != text.eos_id)}
    return reads.get(str(text.pool_type), False)
