"""From clipkit's format to that of another library, and proof that nothing changed on the way."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.preprocess import load_pixels, normalize
from clipkit.encode import Pixels, inference
from clipkit.errors import ConfigError, DataError, ImageError, ModelError, did_you_mean
from clipkit.models import DualEncoder, load
from clipkit.models.lora import merge_lora
from clipkit.models.onnx_export import OnnxEncoder, export_onnx
from clipkit.models.write_open_clip import write_open_clip
from clipkit.models.write_transformers import write_transformers

TOLERANCE = 1e-4
"""Largest difference between two numbers of unit features that still counts as the same."""
SAMPLES = 32
CAPTIONS = (
    "a photo of a cat",
    "Two dogs run in the park; isn't it a fine day?",
    "A red motorcycle, parked in front of a shop (closed).",
    "x",
    "an old man with a hat who sells 12 oranges and 3 lemons at a market stall in the rain, while "
    "children play football behind him and somebody takes a photograph of the whole scene",
)

ImageEncoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A model in another format.

    Attributes:
        folder: where it is.
        to: the format.
        images: how many images were compared.
        texts: how many texts were.
        image_difference: the largest difference between two numbers of the image features.
        text_difference: likewise of the text features.
    """

    folder: Path
    to: str
    images: int
    texts: int
    image_difference: float
    text_difference: float


def convert(
    model: str | Path | DualEncoder,
    to: str,
    out: str | Path,
    *,
    data: str | Path | Dataset = "skimage_photos",
) -> Conversion:
    """Write a model in the format of another library, once it is shown to give the same features.

    Args:
        model: what `clipkit.load` takes, or a model, which is put into evaluation mode; adapters
            are merged in a copy.
        to: "open_clip", "transformers" or "onnx".
        out: the folder to be made; it must not be there, or be empty.
        data: images and captions to compare on; a few dozen rows are enough.

    Returns:
        Where it is, and the largest differences.

    Raises:
        ConfigError: for an unknown format, or where `out` holds something already.
        ModelError: that format has no such model, or the converted one gives other features;
            nothing is left at `out` then.
        DataError: the data has no image that can be read.
    """
    if to not in FORMATS:
        raise ConfigError(f"to: {to!r} is unknown{did_you_mean(to, FORMATS)}")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: name a folder to be made")
    encoder = model if isinstance(model, DualEncoder) else load(model)
    if encoder.architecture.get("lora"):
        encoder = merge_lora(copy.deepcopy(encoder))
    encoder.eval()
    images, texts = _samples(encoder, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        differences = FORMATS[to](encoder, staging, images, texts)
        for what, difference in zip(("image", "text"), differences, strict=True):
            if not difference <= TOLERANCE:  # a NaN is no small difference
                raise ModelError(
                    f"{to}: the converted model gives other {what} features than the original (the"
                    f" largest difference is {difference:.2g}, above {TOLERANCE:g}); nothing was"
                    f" written to {folder}"
                )
        staging.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)
    finally:
        if staging.exists():
            shutil.rmtree(staging)
    return Conversion(folder, to, len(images), len(texts), *differences)


def _to_onnx(
    model: DualEncoder, folder: Path, images: Tensor, texts: list[str]
) -> tuple[float, float]:
    export_onnx(model, folder)
    graphs = OnnxEncoder(folder)
    return (
        _largest(_encoded(model, images), _in_parts(graphs.encode_image, images)),
        _largest(_text_features(model, texts), graphs.encode_text(model.tokenize(texts))),
    )


def _to_open_clip(
    model: DualEncoder, folder: Path, images: Tensor, texts: list[str]
) -> tuple[float, float]:
    return _against(model, load(write_open_clip(model, folder)), images, texts)


def _to_transformers(
    model: DualEncoder, folder: Path, images: Tensor, texts: list[str]
) -> tuple[float, float]:
    return _against(model, load(write_transformers(model, folder)), images, texts)


FORMATS: dict[str, Callable[[DualEncoder, Path, Tensor, list[str]], tuple[float, float]]] = {
    "open_clip": _to_open_clip,
    "transformers": _to_transformers,
    "onnx": _to_onnx,
}
"""What writes each format into a folder and compares; it returns the two largest differences."""


def _against(
    model: DualEncoder, other: DualEncoder, images: Tensor, texts: list[str]
) -> tuple[float, float]:
    """Compare two models on the same pixels, and on texts that each one tokenises by itself."""
    if not torch.isclose(model.logit_scale, other.logit_scale):
        raise ModelError(
            f"the logit scale became {other.logit_scale:.4g} from {model.logit_scale:.4g}"
        )
    return (
        _largest(_encoded(model, images), _encoded(other, images)),
        _largest(_text_features(model, texts), _text_features(other, texts)),
    )


def _encoded(model: DualEncoder, images: Tensor) -> Float[Tensor, "images dim"]:
    with inference(model):
        return _in_parts(model.encode_image, images)


def _in_parts(encode: ImageEncoder, images: Tensor) -> Float[Tensor, "images dim"]:
    return torch.cat([encode(part) for part in images.split(8)])


def _text_features(model: DualEncoder, texts: list[str]) -> Float[Tensor, "texts dim"]:
    with inference(model):
        return model.encode_text(model.tokenize(texts))


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _samples(
    model: DualEncoder, data: str | Path | Dataset
) -> tuple[Float[Tensor, "images 3 height width"], list[str]]:
    """Return a few images as the model sees them, and captions of all sorts."""
    dataset = load_data(data)
    pixels = [torch.from_numpy(array) for array in islice(_pixels(model, dataset), SAMPLES)]
    if not pixels:
        raise DataError(f"{dataset.name} has no image that can be read")
    captions = [caption for sample in islice(dataset, SAMPLES) for caption in sample.captions]
    images = normalize(torch.stack(pixels), model.preprocessing)
    return images, [*CAPTIONS, *captions[:SAMPLES]]


def _pixels(model: DualEncoder, data: Dataset) -> Iterator[Pixels]:
    for sample in data:
        if sample.image is not None:
            try:
                yield load_pixels(sample.image, model.preprocessing)
            except ImageError:
                continue
