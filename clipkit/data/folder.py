"""Folders of images: captions beside them, a metadata file, or one sub-folder for each class."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipkit.data.decode import IMAGE_SUFFIXES
from clipkit.data.table import Columns, is_nothing, read_table
from clipkit.errors import DataError
from clipkit.types import Reject, Sample

METADATA_FILES = ("metadata.csv", "metadata.jsonl")


def read_folder(folder: Path) -> tuple[list[Sample], list[Reject]]:
    """Read all images of a folder and its sub-folders, in the order of their relative paths.

    What is known of an image comes from the first of these that the folder has:

    1. `metadata.csv` or `metadata.jsonl` with a column `file_name`, as Hugging Face's
       `imagefolder` has them; images that it does not name are rejects.
    2. a file of the image's name that ends in .txt (one caption a line) or .json (`caption` or
       `captions`, `label`, and whatever else).
    3. sub-folders, when each image is in one and none deeper: their names are the labels.

    Args:
        folder: hidden files and sub-folders in it are left out; links to folders are followed.

    Returns:
        The samples, whose ids are relative paths, and the images that cannot be used.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    images = sorted(_images(folder))
    if not images:
        raise DataError(f"no images in {folder} (looked for {' '.join(IMAGE_SUFFIXES)})")
    for name in METADATA_FILES:
        if (folder / name).is_file():
            return _from_metadata(folder / name, images)
    samples, rejects, told = [], [], False
    for relative in images:
        captions, label, metadata, reasons = _beside(folder / relative)
        told = told or bool(captions or label or metadata or reasons)
        rejects += [Reject(relative, reason, str(folder / relative)) for reason in reasons]
        if captions or not reasons:
            samples.append(Sample(relative, folder / relative, captions, label, metadata))
    if not told and all(relative.count("/") == 1 for relative in images):
        samples = [Sample(s.id, s.image, label=s.id.partition("/")[0]) for s in samples]
    return samples, rejects


def _images(folder: Path) -> Iterator[str]:
    """Yield the relative path of each image, with forward slashes."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield (Path(here) / name).relative_to(folder).as_posix()


def _from_metadata(path: Path, images: list[str]) -> tuple[list[Sample], list[Reject]]:
    samples, rejects = read_table(path, columns=Columns(image="file_name"))
    used = {str(sample.image) for sample in samples} | {reject.id for reject in rejects}
    for relative in images:
        if str(path.parent / relative) not in used and relative not in used:
            where = str(path.parent / relative)
            rejects.append(Reject(relative, f"not named in {path.name}", where))
    return samples, rejects


def _beside(
    image: Path,
) -> tuple[tuple[str, ...], str | None, dict[str, Any], list[str]]:
    """Return captions, label, metadata and reasons to reject, from the files beside an image."""
    captions: list[str] = []
    fields: dict[str, Any] = {}
    reasons: list[str] = []
    text_file, json_file = image.with_suffix(".txt"), image.with_suffix(".json")
    if text_file.is_file():
        try:
            lines = text_file.read_text(encoding="utf-8-sig").splitlines()
            captions += [line for line in lines if line.strip()] or [""]
        except UnicodeDecodeError:
            reasons.append("caption file is not UTF-8 text")
    if json_file.is_file():
        try:
            read = json.loads(json_file.read_text(encoding="utf-8-sig"))
        except ValueError:
            read = None
        if isinstance(read, dict):
            fields = read
        else:
            reasons.append("file beside the image is not a JSON object")
    for key in ("caption", "captions"):
        if key in fields:
            value = fields.pop(key)
            captions += value if isinstance(value, list) and value else [value]
    kept = tuple(str(text).strip() for text in captions if not is_nothing(text))
    reasons += ["empty caption"] * (len(captions) - len(kept))
    label = fields.pop("label", None)
    return kept, None if is_nothing(label) else str(label).strip(), fields, reasons
