"""Caption files that well-known sets come with: COCO's JSON and Flickr's token files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipkit.data.table import Columns, Keep, read_rows
from clipkit.data.texts import readable, split_lines
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
        path: an object with `images` (`id`, `file_name`; the rest is metadata) and
            `annotations` (`image_id`, `caption`).
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
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        keys = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(
            f"{path} has not COCO's lists `images` and `annotations`, but {keys or 'nothing'}"
        )
    rows, rejects = _coco_rows(content, path)
    if not rows:
        return [], rejects
    columns = Columns(image="file_name", caption="caption", id="id")
    samples, more = read_rows(
        rows, where=str(path), root=root or path.parent, columns=columns, keep=keep
    )
    return samples, rejects + more


def _coco_rows(content: dict[str, Any], path: Path) -> tuple[list[Row], list[Reject]]:
    """Return a row for each image that has captions, and what cannot be used."""
    rejects: list[Reject] = []
    captions = _captions_by_image(content["annotations"], path, rejects)
    known, rows = set(), []
    for number, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not {"id", "file_name"} <= image.keys():
            rejects.append(Reject(f"image {number}", "image has no id or file_name", str(path)))
            continue
        id_ = str(image["id"])
        if id_ in known:
            rejects.append(Reject(readable(id_), "id is that of another image", str(path)))
        elif id_ in captions:
            rows.append({**image, "id": id_, "caption": captions[id_]})
        else:
            name = readable(str(image["file_name"]))
            rejects.append(Reject(name, "image has no annotation", str(path)))
        known.add(id_)
    for id_ in [id_ for id_ in captions if id_ not in known]:
        reason = "annotation of an image that is not listed"
        rejects += [Reject(readable(f"image {id_}"), reason, str(path)) for _ in captions[id_]]
    return rows, rejects


def _captions_by_image(
    annotations: list[Any], path: Path, rejects: list[Reject]
) -> dict[str, list[Any]]:
    captions: dict[str, list[Any]] = {}
    for number, note in enumerate(annotations):
        if isinstance(note, dict) and "caption" in note:
            captions.setdefault(str(note.get("image_id")), []).append(note["caption"])
        else:
            rejects.append(Reject(f"annotation {number}", "annotation has no caption", str(path)))
    return captions


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
    if not rows:
        return [], rejects
    samples, more = read_rows(rows, where=str(path), root=root or path.parent, keep=keep)
    return samples, rejects + more


def _token_rows(path: Path, rejects: list[Reject]) -> Iterator[Row]:
    for number, line in enumerate(split_lines(_text(path)), 1):
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
