"""Both towers as ONNX graphs, for runtimes without PyTorch. The only import of onnxruntime.

    image_encoder.onnx   images float32 [batch, 3, size, size] to image_features [batch, dim]
    text_encoder.onnx    input_ids and attention_mask int64 [batch, tokens] to text_features
    clipkit_onnx.json    preprocessing, tokenizer, similarity, logit scale and bias
    tokenizer/           the tokenizer's files

Features are L2-normalised float32, batches of any size; texts of any length where the model allows
it, see `shortens` in clipkit_onnx.json.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import MissingExtraError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.tokenizers import Tokens

IMAGE, TEXT, DESCRIPTION = "image_encoder.onnx", "text_encoder.onnx", "clipkit_onnx.json"

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class _Images(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


class _Texts(nn.Module):
    def __init__(self, model: DualEncoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tokens: Tensor) -> Tensor:
        return self.model.encode_text(dict(zip(self.names, tokens, strict=True)))


def export_onnx(model: DualEncoder, folder: Path) -> None:
    """Write a model as two ONNX graphs with what is needed to use them.

    Args:
        model: on the CPU, in float32; put into evaluation mode.
        folder: made if it is not there.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ModelError: PyTorch cannot export one of the towers, or its texts are read in pieces.
    """
    check_onnx()
    if model.long_texts != "head":
        raise ModelError("ONNX: a model that reads long texts in pieces cannot be exported")
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    any_size = torch.export.Dim.DYNAMIC
    size = model.preprocessing.size
    images = torch.zeros(2, 3, size, size)
    _export(_Images(model), (images,), ({0: any_size},), folder / IMAGE, ["images"])
    tokens = model.tokenize(["a photo of a cat", "two dogs that run in the park"])
    names = tuple(tokens)
    axes = {0: any_size, 1: any_size} if model.shortens_texts else {0: any_size}
    shapes = (tuple(axes for _ in names),)
    _export(_Texts(model, names), tuple(tokens.values()), shapes, folder / TEXT, list(names))
    bias = model.logit_bias
    description = {
        "preprocessing": asdict(model.preprocessing),
        "tokenizer": {"folder": "tokenizer", **model.tokenizer.save(folder / "tokenizer")},
        "shortens": model.shortens_texts,
        "similarity": model.similarity,
        "logit_scale": model.logit_scale.item(),
        "logit_bias": None if bias is None else bias.item(),
        "fingerprint": model.fingerprint(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


class OnnxEncoder:
    """The two graphs of a folder, run by onnxruntime on the CPU.

    Args:
        folder: what `export_onnx` wrote.
    """

    def __init__(self, folder: Path) -> None:
        """Open both graphs."""
        check_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._image, self._text = (
            onnxruntime.InferenceSession(str(folder / name), options) for name in (IMAGE, TEXT)
        )

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim"]:
        """Return `image_features`."""
        return _run(self._image, {"images": images})

    def encode_text(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        """Return `text_features`."""
        return _run(self._text, tokens)


def check_onnx() -> None:
    """Raise MissingExtraError where a package is not installed."""
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        raise MissingExtraError("ONNX", "onnx")


def _run(session: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    return torch.from_numpy(np.asarray(found))


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, path: Path, names: list[str]
) -> None:
    """Trace a module into a file, without the exporter's own chatter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                inputs,
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=names,
                output_names=["features"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of very many kinds
        cause = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"PyTorch cannot export the {path.stem} to ONNX: {cause}") from error
    finally:
        logger.setLevel(level)
