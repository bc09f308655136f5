"""From rows to features: the one way that classification, export and evaluation encode."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from clipkit.allocator import keep_freed_memory
from clipkit.data.ahead import map_ahead
from clipkit.data.decode import NO_IMAGE
from clipkit.data.preprocess import load_pixels, normalize
from clipkit.errors import ConfigError, ImageError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.fast_paths import fast_paths
from clipkit.packages import default_threads
from clipkit.types import ImageSource, Preprocessing, Progress

MANY_CONVOLUTIONS = 4
"""More of them than that, and an image tower is made of them."""

EncodeImages = Callable[[Tensor], Tensor]
EncodeTexts = Callable[[Mapping[str, Tensor]], Tensor]

Pixels = UInt8[np.ndarray, "height width channels"]


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """The features of some consecutive rows.

    Attributes:
        start: row number of the batch's first row, counted from 0 over the whole input.
        indices: row numbers of the images that were encoded, ascending.
        features: one row for each of `indices`: L2-normalised, float32, on the CPU.
        errors: row number and reason of each image that cannot be used.
    """

    start: int
    indices: list[int]
    features: Float[Tensor, "images dim"]
    errors: list[tuple[int, str]]


def encode_texts(
    model: DualEncoder,
    texts: Sequence[str],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    encode: EncodeTexts | None = None,
) -> Float[Tensor, "texts dim"]:
    """Encode texts, those of like length together: padding is work for nothing.

    Args:
        model: what encodes; the training mode of its parts is put back afterwards.
        texts: any number of texts; what is longer than the model's context is cut.
        batch_size: texts a forward pass; see `texts_a_batch` when `None`.
        progress: called after each batch.
        encode: what to run in place of `model.encode_text`, such as one tower alone.

    Returns:
        `text_features` in the order of `texts`: L2-normalised, float32, on the CPU.

    Raises:
        ConfigError: `texts` is one string, or `batch_size` is below 1.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts is one string; give a list: [{texts!r}]")
    if batch_size is None:
        batch_size = texts_a_batch(model)
    _check_batch_size(batch_size)
    encode = encode or model.encode_text
    features = torch.zeros(len(texts), model.dim)
    longest_first = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
    for start in range(0, len(texts), batch_size):
        rows = longest_first[start : start + batch_size]
        with inference(model):
            tokens = model.tokenize([texts[row] for row in rows])
            moved = {name: value.to(model.device) for name, value in tokens.items()}
            encoded = encode(moved).cpu()
        if start == 0:
            features = torch.zeros(len(texts), encoded.shape[1])
        features[rows] = encoded
        if progress is not None:
            progress(start + len(rows), len(texts))
    return features


def iter_image_features(
    model: DualEncoder,
    images: Iterable[ImageSource | None],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    encode: EncodeImages | None = None,
) -> Iterator[ImageBatch]:
    """Encode images batch by batch, in input order, while threads decode the next ones.

    At most two batches of images are held at a time, so `images` may be an endless generator.

    Args:
        model: what encodes; the training mode of its parts is put back after each batch.
        images: undecoded images; `None` is a row that has none and becomes an error.
        batch_size: input rows a batch; those that cannot be decoded are missing from it. When
            `None`, 8 or 32 on a CPU, by what the image tower is made of, and 128 elsewhere.
        workers: threads that decode; the number of cores, at most 8, when `None`.
        encode: what to run in place of `model.encode_image`, such as one tower alone.

    Yields:
        One batch for each `batch_size` rows, also when none of them could be decoded.

    Raises:
        ConfigError: `batch_size` or `workers` is below 1.
    """
    batch_size = images_a_batch(model) if batch_size is None else batch_size
    _check_batch_size(batch_size)
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    workers = workers or default_threads()
    return _image_batches(model, images, batch_size, workers, encode or model.encode_image)


def encode_images(
    model: DualEncoder,
    images: Iterable[ImageSource | None],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    encode: EncodeImages | None = None,
) -> tuple[Float[Tensor, "images dim"], list[int], list[tuple[int, str]]]:
    """Encode images into one tensor; see `iter_image_features` for what does not fit in memory.

    Args:
        model: what encodes; the training mode of its parts is put back afterwards.
        images: undecoded images; `None` is a row that has none and becomes an error.
        batch_size: input rows a batch, see `iter_image_features`.
        workers: threads that decode; the number of cores, at most 8, when `None`.
        progress: called after each batch.
        encode: what to run in place of `model.encode_image`, such as one tower alone.

    Returns:
        `image_features` [kept, dim] (L2-normalised, float32, on the CPU), the row numbers of the
        kept images in order, and row number and reason of each of the others.

    Raises:
        ConfigError: `batch_size` or `workers` is below 1.
    """
    total = len(images) if isinstance(images, Sized) else None
    parts: list[Tensor] = []
    kept: list[int] = []
    errors: list[tuple[int, str]] = []
    for batch in iter_image_features(
        model, images, batch_size=batch_size, workers=workers, encode=encode
    ):
        if batch.indices:
            parts.append(batch.features)
        kept += batch.indices
        errors += batch.errors
        if progress is not None:
            progress(len(kept) + len(errors), total)
    return torch.cat(parts) if parts else torch.zeros(0, model.dim), kept, errors


@contextmanager
def inference(model: DualEncoder) -> Iterator[None]:
    """Evaluate without gradients; afterwards each part of the model is in the mode it was in.

    `model.train()` would not do: it also switches on parts that were in evaluation mode on purpose.
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), fast_paths(model.device):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _image_batches(
    model: DualEncoder,
    images: Iterable[ImageSource | None],
    batch_size: int,
    workers: int,
    encode: EncodeImages,
) -> Iterator[ImageBatch]:
    start = 0
    with closing(_decoded(images, model.preprocessing, workers, 2 * batch_size)) as rows:
        while batch := list(islice(rows, batch_size)):
            pixels = [row for row in batch if not isinstance(row, str)]
            yield ImageBatch(
                start,
                [start + at for at, row in enumerate(batch) if not isinstance(row, str)],
                encode_pixels(model, pixels, encode),
                [(start + at, row) for at, row in enumerate(batch) if isinstance(row, str)],
            )
            start += len(batch)


def encode_pixels(
    model: DualEncoder, pixels: list[Pixels], encode: EncodeImages
) -> Float[Tensor, "images dim"]:
    """Return the features of images that are scaled and cropped already, in one forward pass.

    Args:
        model: gives the preprocessing and the device.
        pixels: of each image.
        encode: what to run, such as `model.encode_image`.
    """
    if not pixels:
        return torch.zeros(0, model.dim)
    batch = torch.from_numpy(np.stack(pixels)).to(model.device)
    with inference(model):
        features = encode(normalize(batch, model.preprocessing)).cpu()
    # A tensor made in inference mode cannot be trained on, as a linear probe would; a copy can.
    return features.clone()


def _decoded(
    images: Iterable[ImageSource | None],
    preprocessing: Preprocessing,
    workers: int,
    look_ahead: int,
) -> Generator[Pixels | str, None, None]:
    """Yield pixels, or the reason why there are none, in input order."""
    return map_ahead(
        lambda item: _pixels_or_reason(item[1], preprocessing),
        enumerate(images),
        threads=workers,
        ahead=look_ahead,
        name=lambda item: str(item[1]) if isinstance(item[1], Path) else f"image {item[0]}",
    )


def _pixels_or_reason(image: ImageSource | None, preprocessing: Preprocessing) -> Pixels | str:
    if image is None:
        return NO_IMAGE
    try:
        return load_pixels(image, preprocessing)
    except ImageError as error:
        return str(error)


def images_a_batch(model: DualEncoder) -> int:
    """Return how many images suit a forward pass.

    On a CPU 8 suit the towers of convolutions that were measured, whose images fill its caches. A
    ViT, which has one convolution, gains no more than 4 % from 64 over 32. With 16, ViT-B/32 takes
    1.2 to 1.3 times as long in bf16 where the CPU has AMX: 800 rows times 768 columns is a product
    for which PyTorch cuts the matrices badly there.
    """
    if model.device.type != "cpu":
        return 128
    layers = sum(isinstance(part, torch.nn.Conv2d) for part in model.image_tower.modules())
    return 8 if layers > MANY_CONVOLUTIONS else 32


def texts_a_batch(model: DualEncoder) -> int:
    """Return how many texts suit a forward pass.

    On a CPU short batches have less padding, and 32 are not slower otherwise; where all texts are
    padded to the context anyway, 64 are a few per cent faster.
    """
    if model.device.type != "cpu":
        return 256
    return 32 if model.shortens_texts else 64


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
