"""Caption files that well-known sets come with: COCO's JSON and Flickr's token files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipkit.data.table import Keep, read_rows
from clipkit.errors import DataError
from clipkit.types import Reject, Sample

Row = dict[str, Any]


def is_token_file(path: Path) -> bool:
    """Say whether a file is named as Flickr8k's and Flickr30k's caption files are."""
    return path.name.lower().endswith((".token", ".token.txt"))


def read_coco(
    path: Path, *, root: Path | None = None, keep: Keep | None = None
) -> tuple[list[Sample], list[Reject]]:
    """Read COCO's captions (`captions_val2017.json`): Chen et al. 2015, arXiv 1504.00325.

    Args:
        path: an object with `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`).
        root: the folder of the images; the file's own when `None`.
        keep: given a row and its image's name, whether the row is wanted.

    Returns:
        A sample for each image in the order of `images`, and the rows that cannot be used:
        annotations of unknown images, and images without any.

    Raises:
        DataError: the file cannot be read, or is of another shape.
    """
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} has not COCO's lists `images` and `annotations`, but {keys}")
    rows, rejects = _coco_rows(content, path)
    samples, more = read_rows(rows, where=str(path), root=root or path.parent, keep=keep)
    return samples, rejects + more


def _coco_rows(content: dict[str, Any], path: Path) -> tuple[list[Row], list[Reject]]:
    captions: dict[Any, list[Any]] = {}
    rejects = []
    for number, note in enumerate(content["annotations"]):
        if isinstance(note, dict) and "caption" in note:
            captions.setdefault(note.get("image_id"), []).append(note["caption"])
        else:
            rejects.append(Reject(f"annotation {number}", "annotation has no caption", str(path)))
    rows = []
    for number, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not {"id", "file_name"} <= image.keys():
            rejects.append(Reject(f"image {number}", "image has no id or file_name", str(path)))
            continue
        told = captions.pop(image["id"], None)
        if told is None:
            rejects.append(Reject(image["file_name"], "image has no annotation", str(path)))
            continue
        rows.append({"file_name": image["file_name"], "caption": told, "id": image["id"]})
    for image_id, told in captions.items():
        reason = "annotation of an image that is not listed"
        rejects += [Reject(f"image {image_id}", reason, str(path)) for _ in told]
    return rows, rejects


def read_token(
    path: Path, *, root: Path | None = None, keep: Keep | None = None
) -> tuple[list[Sample], list[Reject]]:
    """Read captions as Flickr8k and Flickr30k have them: `photo.jpg#0<TAB>a caption` a line.

    Args:
        path: UTF-8.
        root: the folder of the images; the file's own when `None`.
        keep: given a row and its image's name, whether the row is wanted.

    Returns:
        A sample for each image in the order of its first line, and the lines that cannot be used.

    Raises:
        DataError: the file cannot be read.
    """
    rejects: list[Reject] = []
    rows = list(_token_rows(path, rejects))
    samples, more = read_rows(rows, where=str(path), root=root or path.parent, keep=keep)
    return samples, rejects + more


def _token_rows(path: Path, rejects: list[Reject]) -> Iterator[Row]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        name, tab, caption = line.partition("\t")
        image, mark, which = name.rpartition("#")
        if tab and mark and which.strip().isdigit():
            yield {"file_name": image, "caption": caption}
        elif line.strip():
            place = f"{path} line {number}"
            rejects.append(Reject(f"line {number}", "not IMAGE#NUMBER, a tab, a caption", place))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
