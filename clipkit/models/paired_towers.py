"""Any timm image tower and any transformers text tower, joined by two trained projections.

Locked-image tuning (Zhai et al. 2022, https://arxiv.org/abs/2111.07991) is this with a frozen image
tower; here both towers may be frozen, tuned, or one of each (see `trainable`).
"""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from clipkit.errors import ModelError, did_you_mean
from clipkit.models.dual_encoder import DualEncoder, Similarity
from clipkit.models.projections import Projection, ProjectionKind
from clipkit.models.tokenizers import Tokenizer, Tokens, TransformersTokenizer
from clipkit.types import Preprocessing, per_channel

Pooling = Literal["mean", "cls"]
PROJECTION_KEYS = ("dim", "projection", "hidden")


class ImageTower(nn.Module):
    """A timm model without its classifier.

    Args:
        name: timm's name of the architecture.
        pretrained: fetch timm's weights from the hub; else random weights.
        size: side of the pictures in pixels, for a tower that is built for one, as a ViT is, where
            it is not timm's; `None` for that of timm, and for towers that take any.
    """

    def __init__(self, name: str, *, pretrained: bool = False, size: int | None = None) -> None:
        """Build the model; raises ModelError for a name timm does not know."""
        import timm  # takes seconds

        super().__init__()
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(exclude_filters="test_*"))
            raise ModelError(f"timm has no image model {name!r}{hint if 'mean' in hint else ''}")
        self.name = name
        sized = {} if size is None else {"img_size": size}
        self.model = timm.create_model(name, pretrained=pretrained, num_classes=0, **sized)
        self.model.to(memory_format=torch.channels_last)
        head = getattr(self.model, "head_hidden_size", None)
        self.features = int(head or self.model.num_features)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the pooled features."""
        features: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return features


class TextTower(nn.Module):
    """A transformers encoder with masked pooling.

    Args:
        config: the configuration as transformers saves it, with `model_type`.
        pooling: "mean" over the tokens that are not padding (Sentence-BERT,
            https://arxiv.org/abs/1908.10084), or "cls" for the first token.
    """

    def __init__(self, config: dict[str, Any], *, pooling: Pooling = "mean") -> None:
        """Build the encoder with random weights."""
        super().__init__()
        settings = dict(config)
        model_type = settings.pop("model_type")
        self.config = AutoConfig.for_model(model_type, **settings)
        self.model = AutoModel.from_config(self.config)
        self.pooling = pooling
        self.features = int(self.config.hidden_size)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return one vector for each text."""
        hidden: Tensor = self.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


def find_image_model(pattern: str, fits: Callable[[Any], bool]) -> str | None:
    """Return timm's name of the first architecture that fits, of those a pattern stands for."""
    import timm

    for name in timm.list_models(pattern):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
        with contextlib.suppress(AttributeError):  # of another build than what is looked for
            if fits(model):
                return str(name)
    return None


@dataclass(frozen=True, slots=True)
class TowersSpec:
    """What a pair of towers is made of; all of it goes into the model folder.

    Attributes:
        image: timm's name of the image tower.
        text: configuration of the text tower, with `model_type`.
        pooling: how the text tower's tokens become one vector.
        dim: width of the joint space.
        projection: "linear" or "mlp".
        hidden: width of an "mlp" projection's hidden layer.
        image_size: side of the pictures that the image tower is built for; see `ImageTower`.
    """

    image: str
    text: dict[str, Any]
    pooling: Pooling = "mean"
    dim: int = 512
    projection: ProjectionKind = "linear"
    hidden: int = 512
    image_size: int | None = None


def build_towers(
    spec: TowersSpec,
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity = "softmax",
    logit_scale: float = 1 / 0.07,
    pretrained_image: bool = False,
    name: str = "",
) -> DualEncoder:
    """Build the model that `spec` describes, with random weights where none are pretrained."""
    image_tower = ImageTower(spec.image, pretrained=pretrained_image, size=spec.image_size)
    text_tower = TextTower(spec.text, pooling=spec.pooling)
    image_projection, text_projection = (
        Projection(features, spec.dim, kind=spec.projection, hidden=spec.hidden)
        for features in (image_tower.features, text_tower.features)
    )
    towers = asdict(spec)
    sized = {} if spec.image_size is None else {"size": spec.image_size}
    architecture = {
        "kind": "paired_towers",
        "image_tower": {"timm": towers["image"], **sized},
        "text_tower": {"config": towers["text"], "pooling": towers["pooling"]},
        "projection": {key: towers[key] for key in PROJECTION_KEYS},
    }
    return DualEncoder(
        image_tower,
        text_tower,
        image_projection,
        text_projection,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        architecture=architecture,
        similarity=similarity,
        logit_scale=logit_scale,
        name=name,
    )


def rebuild_paired_towers(
    architecture: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    similarity: Similarity,
) -> DualEncoder:
    """Build what a model folder describes, with random weights."""
    return build_towers(
        spec_from_architecture(architecture),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        similarity=similarity,
    )


def spec_from_architecture(architecture: dict[str, Any]) -> TowersSpec:
    """Read back what `build_towers` put into `architecture`."""
    return TowersSpec(
        image=architecture["image_tower"]["timm"],
        image_size=architecture["image_tower"].get("size"),
        text=architecture["text_tower"]["config"],
        pooling=architecture["text_tower"]["pooling"],
        **{key: architecture["projection"][key] for key in PROJECTION_KEYS},
    )


def paired_towers(
    image: str,
    text: str,
    *,
    dim: int = 512,
    projection: ProjectionKind = "linear",
    hidden: int = 512,
    pooling: Pooling = "mean",
    pretrained: bool = True,
) -> DualEncoder:
    """Join a timm image tower and a transformers text tower; the projections start untrained.

    Args:
        image: timm's name, such as "vit_small_patch16_224".
        text: a hub name or a local folder that transformers can load.
        dim: width of the joint space.
        projection: "linear" or "mlp".
        hidden: width of an "mlp" projection's hidden layer.
        pooling: "mean" or "cls".
        pretrained: take timm's pretrained weights from the hub (the text tower's weights come from
            `text` either way).

    Returns:
        The model, ready to be trained.

    Raises:
        ModelError: when either name cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(text)
        encoder = AutoModel.from_pretrained(text)
        tokenizer = AutoTokenizer.from_pretrained(text)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"transformers cannot load the text tower {text!r}: {reason}") from None
    spec = TowersSpec(
        image=image,
        text=_slim(config.to_dict()),
        pooling=pooling,
        dim=dim,
        projection=projection,
        hidden=hidden,
    )
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512)]
    model = build_towers(
        spec,
        tokenizer=TransformersTokenizer(tokenizer, min(limits)),
        preprocessing=timm_preprocessing(image),
        pretrained_image=pretrained,
        name=f"towers:{image}+{text}",
    )
    model.get_submodule("text_tower.model").load_state_dict(encoder.state_dict())
    return model.eval()


def _slim(config: dict[str, Any]) -> dict[str, Any]:
    """Drop what describes a checkpoint on the hub and not the architecture."""
    drop = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
    return {key: value for key, value in config.items() if key not in drop and value is not None}


def timm_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing that timm's pretrained weights of this architecture expect."""
    import timm

    config = timm.get_pretrained_cfg(name) or timm.get_pretrained_cfg("vit_small_patch16_224")
    size = int(config.input_size[-1])
    interpolation = config.interpolation if config.interpolation == "bilinear" else "bicubic"
    return Preprocessing(
        size=size,
        mean=per_channel(config.mean),
        std=per_channel(config.std),
        interpolation=interpolation,
        resize="shortest",
        resize_to=round(size / config.crop_pct),
    )
