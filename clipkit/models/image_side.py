"""The image side of a model alone: what a classifier needs once its labels are encoded."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from jaxtyping import Int
from safetensors.torch import save
from torch import Tensor, nn

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import merge_lora
from clipkit.models.references import copy_state, read_tensors
from clipkit.models.storage import (
    FAMILIES,
    WEIGHTS,
    known,
    read_description,
    read_preprocessing,
    write_description,
)

_NO_TEXT = "this model was saved without its text side, with the labels that it had"


class ImageSide(DualEncoder):
    """A model that encodes images only; whatever is asked of its text side is a ModelError.

    Args:
        whole: gives image tower and projection; its text side is left.
        fingerprint: of the model that this is the image side of.
    """

    def __init__(self, whole: DualEncoder, fingerprint: str) -> None:
        """Keep the image side."""
        super().__init__(
            whole.image_tower,
            nn.Identity(),
            whole.image_projection,
            nn.Identity(),
            tokenizer=_NoTokenizer(),
            preprocessing=whole.preprocessing,
            architecture=whole.architecture,
            similarity=whole.similarity,
            name=whole.name,
        )
        self.log_logit_scale = whole.log_logit_scale
        self.logit_bias_parameter = whole.logit_bias_parameter
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        """Return that of the whole model: an image's embedding is the same."""
        return self._fingerprint

    def save(
        self,
        folder: str,
        *,
        training_data: Sequence[str] = (),
        base: Any = "reference",
        adapters: Any = "alone",
    ) -> NoReturn:
        """Refuse: half of a model is no model folder."""
        raise ModelError(_NO_TEXT)


class _NoTokenizer:
    """Stands where a tokenizer was."""

    context_length = 0

    def __call__(
        self, texts: Sequence[str], *, shorten: bool = True, pieces: bool = False
    ) -> dict[str, Int[Tensor, "..."]]:
        raise ModelError(_NO_TEXT)

    def count(self, texts: Sequence[str]) -> list[int]:
        raise ModelError(_NO_TEXT)

    def save(self, folder: Path) -> dict[str, Any]:
        raise ModelError(_NO_TEXT)

    def identity(self) -> dict[str, Any]:
        return {}


def save_image_side(model: DualEncoder, folder: Path) -> None:
    """Write the image tower and its projection, with nothing that must come from elsewhere.

    Args:
        model: whole, or an image side itself; adapters are folded into the weights.
        folder: empty.

    Raises:
        ModelError: the model was loaded in bf16: its own weights are gone.
    """
    if model.tower_digests:
        raise ModelError(
            f"{model.name or 'the model'} was loaded with precision bf16 and cannot be saved:"
            " load it with precision float32"
        )
    fingerprint = model.fingerprint()
    if "lora" in model.architecture:
        model = merge_lora(copy.deepcopy(model))
    architecture = json.loads(json.dumps(model.architecture))
    architecture["base"] = None
    for part in architecture.values():
        if isinstance(part, dict):
            part.pop("weights", None)
    whole = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("text_")
    }
    (folder / WEIGHTS).write_bytes(save(whole))
    write_description(
        folder,
        {
            "architecture": architecture,
            "preprocessing": asdict(model.preprocessing),
            "similarity": model.similarity,
            "fingerprint": fingerprint,
        },
    )


def load_image_side(folder: Path) -> ImageSide:
    """Read what `save_image_side` wrote, in evaluation mode on the CPU.

    Raises:
        ModelError: the folder holds something else, or a file of it is missing or changed.
    """
    description = read_description(folder)
    if "tokenizer" in description:
        raise ModelError(f"{folder} is a whole model: `clipkit.load` reads it")
    architecture = description["architecture"]
    whole = known(FAMILIES, architecture.get("kind"), folder)(
        architecture,
        tokenizer=_NoTokenizer(),
        preprocessing=read_preprocessing(description),
        similarity=description["similarity"],
    )
    side = ImageSide(whole, description["fingerprint"])
    side.name = str(folder.resolve())
    side.architecture = architecture
    copy_state(side.state_dict(), read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return side.eval()
