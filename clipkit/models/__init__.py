"""Models: what encodes images and text into one space."""

from pathlib import Path

from clipkit.errors import ModelError, did_you_mean
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.fresh_towers import fresh_towers
from clipkit.models.from_open_clip import load_open_clip
from clipkit.models.from_transformers import load_transformers
from clipkit.models.paired_towers import paired_towers
from clipkit.models.precision import Precision, find_device, halve_towers, wants_bf16
from clipkit.models.starter import STARTER_FOLDER, starter_towers
from clipkit.models.storage import load_model, save_model

__all__ = [
    "DualEncoder",
    "fresh_towers",
    "load",
    "load_model",
    "load_open_clip",
    "load_transformers",
    "paired_towers",
    "save_model",
    "starter_towers",
]


def load(
    name: str | Path, *, precision: Precision = "float32", device: str | None = None
) -> DualEncoder:
    """Load a model in evaluation mode.

    Args:
        name: "starter"; "open_clip:ARCHITECTURE/TAG" and the other names that `load_open_clip`
            takes; "hf:NAME" for a hub name or a local folder of transformers, see
            `load_transformers`; "towers:TIMM+TRANSFORMERS" for two pretrained towers whose
            projections are still to be trained; or a folder that clipkit wrote.
        precision: "float32"; "bf16" for inference with towers that compute in bfloat16, except
            those with batch normalisation; features are tested to stay within a cosine of 0.999,
            for models without adapters. "auto" is "bf16" where the device computes in it. Features
            are float32 and the fingerprint is the same either way; a model in bf16 cannot be saved.
        device: where the model computes, such as "cuda"; the CPU when `None`.

    Raises:
        ConfigError: when there is no such precision or device.
        ModelError: when there is no such model, or its files are damaged.
        MissingExtraError: when it needs a package that is not installed.

    Example:
        >>> model = load("starter")
        >>> model.dim
        512
    """
    place = find_device(device or "cpu")
    bf16 = wants_bf16(precision, place)
    model = _load(str(name))
    if bf16:
        halve_towers(model)
    return model.to(place)


def _load(text: str) -> DualEncoder:
    """Load a model in float32 on the CPU."""
    if text == "starter":
        model = load_model(STARTER_FOLDER)
        model.name = "starter"
        return model
    if text.startswith("open_clip:"):
        return load_open_clip(text.removeprefix("open_clip:"))
    if text.startswith("hf:"):
        return load_transformers(text.removeprefix("hf:"))
    if text.startswith("towers:"):
        image, plus, encoder = text.removeprefix("towers:").partition("+")
        if not plus:
            raise ModelError(
                f"{text!r} names one tower: write towers:TIMM_MODEL+TRANSFORMERS_MODEL"
            )
        return paired_towers(image, encoder)
    if Path(text).is_dir():
        return load_model(text)
    hint = did_you_mean(text, ["starter"])
    raise ModelError(
        f"no model {text!r}: neither a folder nor a known name{hint if 'mean' in hint else ''};"
        " `clipkit models` lists what can be loaded"
    )
