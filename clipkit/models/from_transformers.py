"""CLIP, SigLIP and their kin as transformers has them.

Whatever has `get_image_features` and `get_text_features` and is made of `vision_model`,
`text_model`, perhaps `visual_projection` and `text_projection`, and a logit scale. How a text's
tokens become one vector, and whether padding changes it, is measured when a model is loaded: a
tower that does not give what transformers' own method gives is refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder, Similarity
from clipkit.models.image_processors import PREFIX, read_preprocessing, refusing
from clipkit.models.tokenizers import Tokenizer, Tokens, TransformersTokenizer
from clipkit.types import Preprocessing

TOWERS = {"vision_model", "text_model"}
PROJECTIONS = {"visual_projection", "text_projection"}
SCALES = {"logit_scale", "temperature"}

POOLINGS: dict[str, Callable[[Any], Tensor]] = {
    "pooler": lambda output: output.pooler_output,
    "first": lambda output: output.last_hidden_state[:, 0],
}
"""How a tower's output becomes one vector a row."""

PROBES = ("a", "a photo of a cat")
PROBE_TOKENS = 32

FORGET = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""What a configuration says of a checkpoint and not of the architecture."""


class ImageTower(nn.Module):
    """The vision half of a model of transformers, before its projection.

    Args:
        model: what transformers calls `vision_model`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep the module."""
        super().__init__()
        self.model = model

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the pooled features."""
        return POOLINGS["pooler"](self.model(pixel_values=images, return_dict=True))


class TextTower(nn.Module):
    """The text half of a model of transformers, before its projection.

    Args:
        model: what transformers calls `text_model`.
        pooling: key of `POOLINGS`.
        mask: padding is masked; towers that were trained without a mask must not get one.
        shortens: padding changes nothing, so that texts need no more than their length.
    """

    def __init__(self, model: nn.Module, *, pooling: str, mask: bool, shortens: bool) -> None:
        """Keep the parts."""
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.mask = mask
        self.shortens = shortens

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return one vector for each text."""
        mask = tokens["attention_mask"] if self.mask else None
        output = self.model(input_ids=tokens["input_ids"], attention_mask=mask, return_dict=True)
        return POOLINGS[self.pooling](output)


def load_transformers(spec: str) -> DualEncoder:
    """Load a model in evaluation mode, float32, on the CPU.

    The images are prepared as the model's image processor does it on PIL images, and the texts as
    its tokenizer does it, cut at what the text tower was made for.

    Args:
        spec: a hub name, such as "openai/clip-vit-base-patch32", or a local folder.

    Raises:
        ModelError: when transformers cannot load it without running code that comes with it, when
            it is no pair of an image and a text tower, or when its images are prepared in a way
            that `Preprocessing` cannot say.
    """
    if spec and Path(spec).is_dir():
        spec = str(Path(spec).absolute())
    if not spec or (Path(spec).is_absolute() and not Path(spec).is_dir()):
        raise ModelError(f"{PREFIX}{spec}: name a model on the hub, or a folder that is there")
    with refusing(spec, "model"):
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
        with torch.device("meta"):
            plan = AutoModel.from_config(config, trust_remote_code=False)
    _check_parts(spec, plan, config.model_type)
    preprocessing = read_preprocessing(spec)
    with refusing(spec, "weights"):
        model, report = AutoModel.from_pretrained(
            spec,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            weights_only=True,
        )
    mismatched = {str(name) for name, *_ in report["mismatched_keys"]}
    if missing := sorted(mismatched | set(report["missing_keys"])):
        raise ModelError(
            f"{PREFIX}{spec} lacks weights, or has them in other shapes: {missing[0]}"
            f" (and {len(missing) - 1} more)"
        )
    tokenizer = read_tokenizer(spec, model.text_model)
    for tensor in (*model.parameters(), *model.buffers()):
        # Out of the file and to where memory is aligned: kernels round differently elsewhere.
        tensor.data = tensor.data.clone()
    model.eval()
    architecture = {
        "kind": "transformers",
        "dim": _measured_dim(spec, model, preprocessing),
        "config": _slim(config.to_dict()),
        "image_tower": {},
        "text_tower": _measured_text_tower(spec, model, tokenizer),
        "base": {"name": f"{PREFIX}{spec}"},
    }
    encoder = _join(
        model,
        architecture,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        similarity="sigmoid" if hasattr(model, "logit_bias") else "softmax",
    )
    with torch.no_grad():
        if hasattr(model, "temperature"):
            encoder.log_logit_scale.copy_(-model.temperature.log().reshape(()))
        else:
            encoder.log_logit_scale.copy_(model.logit_scale.reshape(()))
        if encoder.logit_bias_parameter is not None:
            encoder.logit_bias_parameter.copy_(model.logit_bias.reshape(()))
    encoder.name = f"{PREFIX}{spec}"
    return encoder.eval()


def rebuild_transformers(
    architecture: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity,
) -> DualEncoder:
    """Build what a model folder describes, with random weights."""
    settings = dict(architecture["config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return _join(
        AutoModel.from_config(config, trust_remote_code=False),
        architecture,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        similarity=similarity,
    )


def _join(
    model: nn.Module,
    architecture: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity,
) -> DualEncoder:
    """Take a model of transformers apart and put the parts together as clipkit's."""
    return DualEncoder(
        ImageTower(model.get_submodule("vision_model")),
        TextTower(model.get_submodule("text_model"), **architecture["text_tower"]),
        _projection(model, "visual_projection"),
        _projection(model, "text_projection"),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        architecture=architecture,
        similarity=similarity,
    )


def _projection(model: nn.Module, name: str) -> nn.Module:
    """Return a projection; a tower without one has it inside."""
    return model.get_submodule(name) if hasattr(model, name) else nn.Identity()


def _check_parts(spec: str, model: nn.Module, kind: str) -> None:
    """Refuse what is not two towers, at most two projections, and a scale."""
    for method in ("get_image_features", "get_text_features"):
        if not hasattr(model, method):
            raise ModelError(
                f"{PREFIX}{spec} is of type {kind}, which has no {method}: only models that put"
                " images and texts in one space can be loaded, such as CLIP and SigLIP"
            )
    parts = {name for name, _ in model.named_children()}
    odd = sorted((parts - TOWERS - PROJECTIONS) | (TOWERS - parts))
    scales = {name for name, _ in model.named_parameters(recurse=False)}
    odd += sorted(scales - SCALES - {"logit_bias"})
    if odd or not scales & SCALES:
        raise ModelError(
            f"{PREFIX}{spec} is of type {kind}, which is no pair of an image and a text tower with"
            f" a logit scale ({', '.join(odd) or 'it has no logit scale'})"
        )


def read_tokenizer(spec: str, tower: nn.Module) -> TransformersTokenizer:
    """Read a model's tokenizer; texts are cut at what both it and the text tower take.

    Raises:
        ModelError: it cannot be read, or does not fit the tower.
    """
    with refusing(spec, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    words, table = len(tokenizer), _table(tower, ("token_embedding", "word_embeddings"))
    rows = words if table is None else table.num_embeddings
    problem = ""
    if tokenizer.pad_token_id is None:
        problem = "has no token for padding"
    elif tokenizer.padding_side != "right":
        problem = f"pads on the {tokenizer.padding_side}: set padding_side to right"
    elif words <= len(tokenizer.all_special_ids):
        problem = "knows no words: its files are missing or empty"
    elif words > rows:
        problem = f"knows {words} tokens where the text tower knows {rows}"
    if problem:
        raise ModelError(f"{PREFIX}{spec}: its tokenizer {problem}")
    return TransformersTokenizer(
        tokenizer,
        min(int(tokenizer.model_max_length), _positions(tower)),
        mask="attention_mask" in tokenizer.model_input_names,
    )


def _positions(tower: nn.Module) -> int:
    """Return how many tokens a text tower has positions for.

    RoBERTa and its kin count positions from the padding's index on.
    """
    table = _table(tower, ("position_embedding", "position_embeddings"))
    if table is None:
        return int(getattr(tower.config, "max_position_embeddings", 512))
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _table(tower: nn.Module, names: tuple[str, ...]) -> nn.Embedding | None:
    """Return the first table of embeddings that has one of these names."""
    for name, module in tower.named_modules():
        if name.rpartition(".")[2] in names and isinstance(module, nn.Embedding):
            return module
    return None


def _measured_dim(spec: str, model: nn.Module, preprocessing: Preprocessing) -> int:
    """Return the width of the joint space, once the image tower gives what transformers does."""
    side = preprocessing.size
    images = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
    with refusing(spec, "image tower"), torch.inference_mode():
        expected = _vector(model.get_image_features(pixel_values=images))  # type: ignore[operator]
        tower = ImageTower(model.get_submodule("vision_model"))
        found = _projection(model, "visual_projection")(tower(images))
    if not _equal(found, expected):
        raise ModelError(
            f"{PREFIX}{spec}: its image tower is pooled in a way that clipkit does not have"
        )
    return int(expected.shape[1])


def _measured_text_tower(
    spec: str, model: nn.Module, tokenizer: TransformersTokenizer
) -> dict[str, Any]:
    """Return the settings of `TextTower` that give what transformers' own method gives."""
    length = min(tokenizer.context_length, PROBE_TOKENS)
    probe = TransformersTokenizer(tokenizer.tokenizer, length, mask=tokenizer.mask)
    short, full = (probe(PROBES, shorten=shorten) for shorten in (True, False))
    project = _projection(model, "text_projection")
    with refusing(spec, "text tower"), torch.inference_mode():
        expected = _vector(model.get_text_features(**full))  # type: ignore[operator]
        for pooling in POOLINGS:
            tower = TextTower(
                model.get_submodule("text_model"),
                pooling=pooling,
                mask=tokenizer.mask,
                shortens=False,
            )
            try:
                found = project(tower(full))
            except (AttributeError, TypeError):  # this output has no such part
                continue
            if _equal(found, expected):
                shortens = _equal(project(tower(short)), expected)
                return {"pooling": pooling, "mask": tokenizer.mask, "shortens": shortens}
    raise ModelError(
        f"{PREFIX}{spec}: its text tower is pooled in a way that clipkit does not have"
    )


def _vector(output: Any) -> Tensor:
    """Return the features: a tensor up to transformers 4, in an output's `pooler_output` since."""
    vector: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vector


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same but for rounding in float32."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))


def _slim(config: Any) -> Any:
    """Drop what describes a checkpoint and not the architecture, at every level."""
    if isinstance(config, dict):
        return {key: _slim(value) for key, value in config.items() if key not in FORGET}
    return config
