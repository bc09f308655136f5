"""Folders of images: captions beside them, a metadata file, or one sub-folder for each class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipkit.data.decode import IMAGE_SUFFIXES, file_problem, os_reason
from clipkit.data.table import (
    TABLE_SUFFIXES,
    Columns,
    clean_captions,
    is_nothing,
    read_table,
)
from clipkit.data.texts import caption_lines, parse_object, readable, take_captions
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
    images = dict(sorted(_walk(folder)))
    if not images:
        raise DataError(f"no images in {folder} (looked for {' '.join(IMAGE_SUFFIXES)})")
    for name in METADATA_FILES:
        if (folder / name).is_file():
            return _from_metadata(folder / name, list(images))
    samples, rejects, told = [], [], False
    for relative, problem in images.items():
        sample, reasons = (None, [problem]) if problem else _beside(folder, relative)
        rejects += [_reject(folder, relative, reason) for reason in reasons]
        if sample is not None:
            samples.append(sample)
        told = told or (not problem and (sample is None or _is_told(sample)))
    if not told and all(sample.id.count("/") == 1 for sample in samples):
        samples = [Sample(s.id, s.image, label=s.id.partition("/")[0]) for s in samples]
    return samples, rejects


def unread_tables(name: str, samples: Sequence[Sample]) -> str:
    """Say which table lies in a folder of images and was not read, for an error; "" if none does.

    Args:
        name: of the data set.
        samples: of the folder; those of a table have no such thing.
    """
    first = next(iter(samples), None)
    if first is None or not isinstance(first.image, Path):
        return ""
    folder = Path(str(first.image).removesuffix(first.id))
    if folder / first.id != first.image or not folder.is_dir():
        return ""
    endings = (*TABLE_SUFFIXES, ".json", ".token")
    tables = sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))
    others = {Path(sample.id).stem for sample in samples} | {name.partition("@")[0]}
    found = [table for table in tables if table.rpartition(".")[0] not in others]
    return f"; {found[0]} in it was not read: give that file as the data" if found else ""


def has_images(folder: Path) -> bool:
    """Say whether there is any image in a folder or below it."""
    return next(_walk(folder), None) is not None


def _walk(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each image's relative path, with forward slashes, and why it is none, if it is none.

    A sub-folder that cannot be listed is yielded as well, or its images would be lost unsaid.
    """
    waiting: list[tuple[str, tuple[str, ...]]] = [("", ())]
    while waiting:
        below, above = waiting.pop()
        real = os.path.realpath(folder / below)
        if real in above:  # a link that leads back
            continue
        try:
            with os.scandir(folder / below) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            yield below or ".", f"folder cannot be listed: {error.strerror}"
            continue
        for entry in listed:
            relative = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                waiting.append((relative, (*above, real)))
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                yield relative, _problem(entry)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _problem(entry: "os.DirEntry[str]") -> str | None:
    """Return why an entry is no file that can be read; most entries know without being asked."""
    try:
        return None if entry.is_file() else file_problem(Path(entry.path))
    except OSError as error:
        return os_reason(error)


def _from_metadata(path: Path, images: list[str]) -> tuple[list[Sample], list[Reject]]:
    named: set[str] = set()

    def note(row: object, image: str) -> bool:
        named.add(os.path.relpath(path.parent / image, path.parent))
        return True

    samples, rejects = read_table(path, columns=Columns(image="file_name"), keep=note)
    for relative in images:
        if relative not in named:
            rejects.append(_reject(path.parent, relative, f"not named in {path.name}"))
    return samples, rejects


def _reject(folder: Path, relative: str, reason: str) -> Reject:
    return Reject(readable(relative), reason, readable(str(folder / relative)))


def _is_told(sample: Sample) -> bool:
    return bool(sample.captions or sample.label or sample.metadata)


def _beside(folder: Path, relative: str) -> tuple[Sample | None, list[str]]:
    """Return a sample from the files beside an image, or none, and what is wrong with them."""
    image = folder / relative
    try:
        text = _text(image.with_suffix(".txt"))
        json_text = _text(image.with_suffix(".json"))
    except UnicodeDecodeError:
        return None, ["caption file is not UTF-8 text"]
    except OSError as error:
        return None, [f"caption file cannot be read: {error.strerror}"]
    fields = parse_object(json_text) if json_text is not None else {}
    if fields is None:
        return None, ["file beside the image is not a JSON object"]
    told = (caption_lines(text) if text is not None else []) + take_captions(fields)
    captions, reasons = clean_captions(told) if told else ((), [])
    if reasons and not captions:
        return None, reasons[:1]
    label = fields.pop("label", None)
    label = None if is_nothing(label) else str(label).strip()
    return Sample(readable(relative), image, captions, label, fields), reasons


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8-sig") if path.is_file() else None
