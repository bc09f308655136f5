"""Models: what encodes images and text into one space."""

from pathlib import Path

from clipkit.errors import ModelError, did_you_mean
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import paired_towers
from clipkit.models.starter import STARTER_FOLDER, starter_towers
from clipkit.models.storage import load_model, save_model

__all__ = [
    "DualEncoder",
    "load",
    "load_model",
    "paired_towers",
    "save_model",
    "starter_towers",
]


def load(name: str | Path) -> DualEncoder:
    """Load a model in evaluation mode on the CPU.

    Args:
        name: "starter"; "towers:TIMM+TRANSFORMERS" for two pretrained towers whose projections are
            still to be trained; or a folder that clipkit wrote.

    Raises:
        ModelError: when there is no such model, or its files are damaged.
        MissingExtraError: when it needs a package that is not installed.

    Example:
        >>> model = load("starter")
        >>> model.dim
        512
    """
    text = str(name)
    if text == "starter":
        model = load_model(STARTER_FOLDER)
        model.name = "starter"
        return model
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
