"""Data sets by name, by file or by folder: `load_data` is the one way in."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from clipkit.data.dataset import Dataset
from clipkit.data.folder import read_folder
from clipkit.data.manifest import Manifest, list_manifests, read_manifest
from clipkit.data.openmoji import load_openmoji
from clipkit.data.rejects import Rejects
from clipkit.data.table import TABLE_SUFFIXES, Columns, Keep, inside, read_rows, read_table
from clipkit.errors import DataError, did_you_mean
from clipkit.packages import package_folder
from clipkit.types import Progress, Reject, Sample

Read = tuple[list[Sample], list[Reject]]

_EXTRAS = {"skimage": "photos"}


def load_data(
    data: str | Path | Dataset,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set, wherever it is; images stay undecoded.

    Args:
        data: the name of a manifest that ships (`list_manifests()`), a manifest file, a csv, tsv
            or jsonl file, or a folder of images; a suffix `@SPLIT` takes one split: one of the
            manifest's, a value of a table's column `split`, or a sub-folder. A name that ships
            comes before a file or folder of that name; write `./NAME` for the latter.
        image_column: column of a table, where its name is none of the usual ones.
        caption_column: likewise.
        label_column: likewise.
        root: folder that a table's image paths are relative to, or in place of a manifest's root.
        progress: told how many pictures are drawn, and of how many, where a source draws its own.

    Returns:
        The usable rows in the order of the source, and the rows that cannot be used.

    Raises:
        DataError: nothing is found under that name, or it cannot be read, or no row is usable.
        MissingExtraError: it rests on a package that is not installed.

    >>> load_data("skimage_photos")[0].label
    'astronaut'
    """
    columns = Columns(image_column, caption_column, label_column)
    if isinstance(data, Dataset):
        if columns != Columns() or root is not None:
            raise DataError("columns and root are for data that is still to be read, not a Dataset")
        return data
    path, split = _find(str(data))
    folder = Path(root) if root is not None else None
    if path.suffix.lower() in (".yaml", ".yml"):
        dataset = _load_manifest(read_manifest(path), split, columns, folder, progress)
    elif path.is_dir():
        if columns != Columns() or folder is not None:
            raise DataError(f"{path} is a folder of images: it has no columns and no other root")
        dataset = _dataset(_name(path, split), read_folder(path / (split or "")))
    elif path.suffix.lower() in TABLE_SUFFIXES:
        keep = _column_keep("split", split) if split else None
        read = read_table(path, columns=columns, root=folder, keep=keep)
        dataset = _dataset(_name(path, split), read)
    else:
        endings = ", ".join((".yaml", *TABLE_SUFFIXES))
        raise DataError(f"{path} is neither a folder nor one of {endings}")
    if not dataset.samples:
        rejects = Rejects(rows=dataset.rejects)
        raise DataError(f"{data} has no row that can be used ({rejects.summary()})")
    return dataset


def _find(data: str) -> tuple[Path, str | None]:
    """Return the file or folder that is meant, and the split."""
    manifests = list_manifests()
    head, at, split = data.rpartition("@")
    for name, part in ((data, None), (head, split)) if at else ((data, None),):
        if name in manifests:
            return manifests[name], part
        if name and Path(name).exists():
            return Path(name), part
    near = did_you_mean(head or data, manifests)
    raise DataError(f"no data {data!r}: neither a file or folder nor a manifest{near}")


def _name(path: Path, split: str | None) -> str:
    stem = path.resolve().name if path.is_dir() else path.stem
    return f"{stem}@{split}" if split else stem


def _load_manifest(
    manifest: Manifest,
    split: str | None,
    columns: Columns,
    root: Path | None,
    progress: Progress | None,
) -> Dataset:
    if split is not None and split not in manifest.splits:
        near = did_you_mean(split, manifest.splits) or "; it has none"
        raise DataError(f"data set {manifest.name} has no split {split!r}{near}")
    how = manifest.splits[split] if split is not None else {}
    merged = Columns(
        *(
            getattr(columns, part.name) or getattr(manifest.columns, part.name)
            for part in fields(Columns)
        )
    )
    if manifest.source["kind"] == "openmoji":
        if merged != Columns() or root is not None:
            raise DataError(f"data set {manifest.name} comes from packages: no columns, no root")
        root = manifest.path.parent
    root = root or _root(manifest)
    keep, unmet = _keep(how, root, manifest.name)
    samples, rejects = _read_source(manifest, how, root, merged, keep, progress)
    rejects += unmet({reject.id for reject in rejects})
    name = f"{manifest.name}@{split}" if split else manifest.name
    return _dataset(name, (samples, rejects), manifest)


def _read_source(
    manifest: Manifest,
    how: Mapping[str, str],
    root: Path,
    columns: Columns,
    keep: Keep | None,
    progress: Progress | None,
) -> Read:
    source, rejects = manifest.source, list[Reject]()
    if source["kind"] == "table":
        images = _inside(root, source.get("images", "."), manifest.name)
        if "rows" in source and "path" not in how:
            rows, where = source["rows"], str(manifest.path)
            return read_rows(rows, where=where, root=images, columns=columns, keep=keep)
        path = _inside(root, how.get("path") or source["path"], manifest.name)
        return read_table(path, columns=columns, root=images, keep=keep)
    if source["kind"] == "folder":
        samples, rejects = read_folder(_inside(root, how.get("path", "."), manifest.name))
    else:
        options = {key: value for key, value in source.items() if key != "kind"}
        samples = load_openmoji(**options, progress=progress)
    if keep is not None:
        samples = [sample for sample in samples if keep(sample.metadata, sample.id)]
        rejects = [reject for reject in rejects if "column" in how or keep({}, reject.id)]
    return samples, rejects


def _keep(
    how: Mapping[str, str], root: Path, name: str
) -> tuple[Keep | None, Callable[[set[str]], list[Reject]]]:
    """Return which rows a split takes, and what lists names of its file that no row has."""
    if "column" in how:
        return _column_keep(how["column"], str(how["value"])), lambda known: []
    if "file" not in how:
        return None, lambda known: []
    path = _inside(root, how["file"], name)
    try:
        wanted = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data set {name}: {path} cannot be read: {error}") from error
    names, met = dict.fromkeys(filter(None, wanted)), set[str]()

    def keep(row: Mapping[str, Any], image: str) -> bool:
        hits = {image, Path(image).name} & names.keys()
        met.update(hits)
        return bool(hits)

    def unmet(known: set[str]) -> list[Reject]:
        reason = "named by the split but not in the data"
        return [Reject(n, reason, str(path)) for n in names if n not in met and n not in known]

    return keep, unmet


def _column_keep(column: str, value: str) -> Keep:
    return lambda row, image: str(row.get(column)) == value


def _root(manifest: Manifest) -> Path:
    """Return the folder that a manifest's paths are relative to."""
    root = str(manifest.source.get("root", "."))
    if root.startswith("package:"):
        package, _, below = root.removeprefix("package:").partition("/")
        if package not in _EXTRAS and importlib.util.find_spec(package) is None:
            raise DataError(f"data set {manifest.name} needs the package {package}: pip install it")
        what, extra = f"data set {manifest.name}", _EXTRAS.get(package, "")
        return _inside(package_folder(package, what=what, extra=extra), below, manifest.name)
    for variable in re.findall(r"\$\{(\w+)\}", root):
        if not os.environ.get(variable):
            raise DataError(
                f"data set {manifest.name} needs the environment variable {variable}: set it to "
                f"the folder that holds the data, or give root=... ({manifest.path} says more)"
            )
        root = root.replace(f"${{{variable}}}", os.environ[variable])
    folder = manifest.path.parent / Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data set {manifest.name}: its root {folder} is not a folder")
    return folder


def _inside(root: Path, relative: str, name: str) -> Path:
    path = inside(root, relative)
    if path is None:
        raise DataError(f"data set {name}: path {relative!r} leads out of its root {root}")
    return path


def _dataset(name: str, read: Read, manifest: Manifest | None = None) -> Dataset:
    samples, rejects = read
    if manifest is None:
        labels = {sample.label for sample in samples if sample.label is not None}
        return Dataset(name, samples, tuple(sorted(labels)), rejects=tuple(rejects))
    known = set(manifest.class_names)
    if known:
        wrong = [s for s in samples if s.label is not None and s.label not in known]
        rejects += [Reject(s.id, "label is not among class_names", str(s.label)) for s in wrong]
        samples = [s for s in samples if s.label is None or s.label in known]
    labels = {sample.label for sample in samples if sample.label is not None}
    return Dataset(
        name,
        samples,
        manifest.class_names or tuple(sorted(labels)),
        manifest.templates,
        tuple(rejects),
        manifest.licence,
        manifest.homepage,
    )
