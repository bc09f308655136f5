"""What images may be handed over as: paths, folders, globs, PIL images, arrays, data sets."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkit.data.dataset import Dataset
from clipkit.data.decode import IMAGE_SUFFIXES
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.types import ImageSource, Sample

Images = Any
"""One image or many: see `as_samples`."""


def as_samples(images: Images) -> Iterator[Sample]:
    """Yield a sample for each image, undecoded; its id is the file's path, or its place.

    Args:
        images: a file, a folder, a glob, or a data set as `load_data` takes it; a PIL image; an
            array uint8 [height, width, 3]; or any iterable of files, bytes, PIL images, arrays and
            samples. Files that do not exist are passed on: they become rejects.

    Raises:
        DataError: a name that leads nowhere, or something that is no image.
    """
    if isinstance(images, str | Path):
        yield from _by_name(str(images))
    elif isinstance(images, bytes | Image.Image) or _is_picture(images):
        yield Sample("image 0", _source(images, 0))
    elif isinstance(images, Dataset):
        yield from images
    elif isinstance(images, Iterable):
        for at, item in enumerate(images):
            name = str(item) if isinstance(item, str | Path) else f"image {at}"
            yield item if isinstance(item, Sample) else Sample(name, _source(item, at))
    else:
        raise DataError(f"images: {type(images).__name__} is neither an image nor a list of them")


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


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim in (2, 3)


def _source(item: Any, at: int) -> ImageSource:
    if isinstance(item, str):
        return Path(item)
    if isinstance(item, Path | bytes | Image.Image):
        return item
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim in (2, 3):
        try:
            return Image.fromarray(item)
        except (TypeError, ValueError):
            pass
    if isinstance(item, np.ndarray):
        shape = f"{item.dtype} {list(item.shape)}"
        raise DataError(f"image {at} is an array {shape}; give uint8 [height, width, 3]")
    raise DataError(
        f"image {at} is a {type(item).__name__}; give a path, bytes, PIL image or array"
    )
