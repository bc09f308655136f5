"""What images may be handed over as: paths, folders, globs, PIL images, arrays, data sets."""

import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipkit.data.cells import image_source
from clipkit.data.dataset import Dataset
from clipkit.data.decode import IMAGE_SUFFIXES
from clipkit.data.load import load_data
from clipkit.data.table import Columns, resolve_columns
from clipkit.errors import DataError
from clipkit.types import ImageSource, Sample

Images = Any
"""One image or many: see `as_samples`."""

SHAPES = (
    "give uint8 [height, width, 3] or [height, width], or a tensor [3, height, width], uint8 or"
    " from 0 to 1"
)


def as_samples(images: Images) -> Iterator[Sample]:
    """Yield a sample for each image, undecoded; its id is the file's path, or its place.

    Args:
        images: a file, a folder, a glob, or a data set as `load_data` takes it; a PIL image; an
            array uint8 [height, width, 3] or [height, width]; a tensor [3, height, width], uint8 or
            floating-point in [0, 1]; several of these stacked; or any iterable of files, bytes, PIL
            images, arrays, tensors, samples, and what `datasets` gives for an image or a row: a
            column of it, say, or a generator. Files that do not exist are passed on: they become
            rejects.

    Raises:
        DataError: a name that leads nowhere, or something that is no image.
    """
    if isinstance(images, str | Path):
        yield from _by_name(str(images))
    elif isinstance(images, bytes | Image.Image) or _is_picture(images):
        yield Sample("image 0", _source(images, 0))
    elif isinstance(images, Dataset):
        yield from images
    elif not _is_list(images):
        raise DataError(f"images: {type(images).__name__} is neither an image nor a list of them")
    elif isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[0] in (3, 4):
        raise DataError(
            f"images: an array {images.dtype} {list(images.shape)} is one picture whose channels"
            f" come first, or {images.shape[0]} grey ones; give [height, width, 3], or a list"
        )
    else:
        for at, item in enumerate(images):
            yield item if isinstance(item, Sample) else _sample(item, at)


def _by_name(name: str) -> Iterator[Sample]:
    path = Path(name)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        yield Sample(name, path)
    elif not path.exists() and glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (Path.glob wants a root)
        files = [file for file in found if file.lower().endswith(IMAGE_SUFFIXES)]
        if not files:
            raise DataError(f"no images match {name!r}")
        yield from (Sample(file, Path(file)) for file in files)
    else:
        prefix = f"{name.rstrip('/')}/" if path.is_dir() else ""
        yield from (replace(sample, id=prefix + sample.id) for sample in load_data(name))


def _is_list(value: Any) -> bool:
    """Say whether the items of something are images: not keys, names of columns or lines."""
    a_frame = hasattr(value, "iloc") and hasattr(value, "columns")  # of pandas
    if a_frame or isinstance(value, Mapping | IOBase):
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _is_picture(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 3
    return isinstance(value, np.ndarray) and (
        value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 2, 3, 4))
    )


def _sample(item: Any, at: int) -> Sample:
    """Return the sample of one item of a list."""
    if isinstance(item, str | Path):
        return Sample(str(item), Path(item))
    name = f"image {at}"
    if not isinstance(item, Mapping):
        return Sample(name, _source(item, at))
    if {"bytes", "path"} & set(item):  # an image that `datasets` has not decoded
        found = image_source(item, Path())
        if isinstance(found, str):
            raise DataError(f"{name}: {found}")
        return Sample(name, found)
    columns = resolve_columns(Columns(), map(str, item), name)  # a row
    label = item[columns["label"]] if "label" in columns else None
    cell = _sample(item[columns["image"]], at)
    return replace(cell, label=label if isinstance(label, str) else None)


def _source(item: Any, at: int) -> ImageSource:
    if isinstance(item, bytes | Image.Image):
        return item
    if isinstance(item, Tensor):
        return _from_tensor(item, at)
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim in (2, 3):
            try:
                return Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
            except (TypeError, ValueError):
                pass
        raise DataError(f"image {at} is an array {item.dtype} {list(item.shape)}; {SHAPES}")
    raise DataError(
        f"image {at} is a {type(item).__name__}; give a path, bytes, PIL image, array or tensor"
    )


def _from_tensor(item: Tensor, at: int) -> Image.Image:
    """Return the picture of a tensor whose channels come first, as torchvision has it."""
    about = f"image {at} is a tensor {str(item.dtype).removeprefix('torch.')} {list(item.shape)}"
    if item.ndim != 3 or item.shape[0] not in (1, 3):
        raise DataError(f"{about}; {SHAPES}")
    item = item.detach().cpu()
    if item.is_floating_point():
        low, high = (float(item.min()), float(item.max())) if item.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{about} from {low:.3g} to {high:.3g}; it may be normalised already, and a picture"
                " is from 0 to 1"
            )
        item = (item * 255).round().to(torch.uint8)
    if item.dtype != torch.uint8:
        raise DataError(f"{about}; {SHAPES}")
    pixels = item.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
