"""Data sets by name, by file or by folder: `load_data` is the one way in."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from clipkit.data.annotations import is_token_file, read_coco, read_token
from clipkit.data.columnar import ColumnarSamples, Rows
from clipkit.data.dataset import Dataset
from clipkit.data.folder import has_images, read_folder
from clipkit.data.jsonl import JsonRows
from clipkit.data.manifest import Manifest, list_manifests, read_manifest
from clipkit.data.openmoji import load_openmoji
from clipkit.data.parquet import ARROW_SUFFIXES, open_arrow_file
from clipkit.data.rejects import Rejects
from clipkit.data.scan import read_columnar
from clipkit.data.shards import expand_shards
from clipkit.data.table import TABLE_SUFFIXES, Columns, Keep, inside, read_rows, read_table
from clipkit.data.texts import readable
from clipkit.data.webdataset import read_webdataset
from clipkit.errors import DataError, did_you_mean
from clipkit.packages import package_folder
from clipkit.types import Progress, Reject, Sample

Read = tuple[Sequence[Sample], list[Reject]]

HUB = "hub:"
LARGE_TABLE = 64 << 20
"""JSON lines of more bytes than this stay on the disk."""

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
        data: the name of a manifest that ships (`list_manifests()`), a manifest file, a table
            (csv, tsv, jsonl, parquet, arrow), COCO's captions (json), Flickr's (token), tar shards
            (`shards/{000..127}.tar`, or a glob), a folder of images, a folder that `datasets`
            wrote, or `hub:NAME`. A suffix `@SPLIT` takes one split: one of the manifest's, of the
            hub set's, a value of a table's column `split`, or a sub-folder. A name that ships comes
            before a file or folder of that name; write `./NAME` for the latter.
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
    folder = Path(root) if root is not None else None
    if str(data).startswith(HUB):
        name, _, part = str(data).removeprefix(HUB).partition("@")
        split = part or None
        read = _read_hub(name, split, columns, folder)
        dataset = _dataset(str(data).removeprefix(HUB), read)
    else:
        path, split = _find(str(data))
        if path.suffix.lower() in (".yaml", ".yml"):
            dataset = _load_manifest(read_manifest(path), split, columns, folder, progress)
        else:
            read = _read_path(path, split, columns, folder, progress)
            dataset = _dataset(_name(path, split), read)
    if not len(dataset.samples):
        told = Rejects(rows=dataset.rejects).summary()
        if split is not None and not dataset.rejects:
            told = f"none is of the split {split!r}"
        raise DataError(f"{data} has no row that can be used ({told})")
    return dataset


def load_splits(data: str | Path, *, progress: Progress | None = None) -> list[Dataset]:
    """Read every split of a data set whose manifest names some; any other as a whole.

    Args:
        data: what `load_data` takes, but for columns and root.
        progress: as `load_data` has it.

    Raises:
        DataError: as `load_data` does.
    """
    name = str(data)
    if not name.startswith(HUB):
        path, split = _find(name)
        if path.suffix.lower() in (".yaml", ".yml") and split is None:
            splits = read_manifest(path).splits
            if splits:
                return [load_data(f"{name}@{split}", progress=progress) for split in splits]
    return [load_data(data, progress=progress)]


def _read_path(
    path: Path,
    split: str | None,
    columns: Columns,
    root: Path | None,
    progress: Progress | None,
) -> Read:
    """Read a file, a folder or shards that no manifest describes."""
    suffix = path.suffix.lower()
    plain = columns == Columns()
    keep = _column_keep("split", split) if split else None
    if _is_folder(path):
        inner = path / (split or "")
        if plain and root is None and inner.is_dir() and not has_images(inner):
            if shards := sorted(inner.rglob("*.tar")):
                return read_webdataset(shards, progress=progress)
        if any(path.glob("*.parquet")) or any(path.glob("dataset_*.json")):
            return _read_hub(str(path), split, columns, root)
        if not plain or root is not None:
            raise DataError(f"{path} is a folder of images: it has no columns and no other root")
        return read_folder(path / (split or ""))
    if suffix in (*TABLE_SUFFIXES, *ARROW_SUFFIXES):
        return _read_table(path, columns, root, keep)
    if not plain:
        raise DataError(f"{path} has no columns to name")
    if split is not None:
        raise DataError(f"{path} has no splits: write a manifest that says which rows are in them")
    if suffix == ".json":
        return read_coco(path, root=root)
    if is_token_file(path):
        return read_token(path, root=root)
    if suffix == ".tar":
        return read_webdataset(expand_shards(str(path)), progress=progress)
    endings = ", ".join((".yaml", *TABLE_SUFFIXES, *ARROW_SUFFIXES, ".json", ".token", ".tar"))
    raise DataError(f"{path} is neither a folder nor one of {endings}")


def _read_table(
    path: Path,
    columns: Columns,
    root: Path | None,
    keep: Keep | None,
    class_names: Sequence[str] = (),
) -> Read:
    """Read a table: a small one that is text into memory, any other row by row from the disk."""
    suffix = path.suffix.lower()
    rows: Rows
    if suffix == ".jsonl" and path.is_file() and path.stat().st_size > LARGE_TABLE:
        rows = JsonRows(path)
    elif suffix in ARROW_SUFFIXES:
        rows = open_arrow_file(path)
    else:
        return read_table(path, columns=columns, root=root, keep=keep)
    root = root or path.parent
    return read_columnar(rows, columns=columns, root=root, keep=keep, class_names=class_names)


def _read_hub(
    name: str,
    split: str | None,
    columns: Columns,
    root: Path | None,
    *,
    config: str | None = None,
    first_rows: int | None = None,
    keep: Keep | None = None,
    class_names: Sequence[str] = (),
) -> Read:
    hub = importlib.import_module("clipkit.data.hub")  # datasets takes a second to import
    rows = hub.open_hub(name, config=config, split=split, first_rows=first_rows)
    base = root or (Path(name) if Path(name).is_dir() else Path())
    return read_columnar(rows, columns=columns, root=base, keep=keep, class_names=class_names)


def _find(data: str) -> tuple[Path, str | None]:
    """Return the file or folder that is meant, and the split."""
    manifests = list_manifests()
    head, at, split = data.rpartition("@")
    for name, part in ((data, None), (head, split)) if at else ((data, None),):
        if name in manifests:
            return manifests[name], part
        if name and (_is_pattern(name) or _is_there(Path(name))):
            return Path(name), part
    near = did_you_mean(head or data, manifests)
    hint = near if "mean" in near else "; `clipkit data` lists the sets that have one"
    raise DataError(f"no data {data!r}: neither a file or folder nor a manifest{hint}")


def _is_there(path: Path) -> bool:
    """Say whether there is a file or a folder.

    Raises:
        DataError: the system refuses to look, or it is a pipe, say, that would be waited for.
    """
    try:
        if path.is_file() or path.is_dir():
            return True
        other = path.exists()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if other:
        raise DataError(f"{path} is neither a file nor a folder")
    return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # shards that are listed in braces: longer than a file's name can be
        return False


def _is_pattern(name: str) -> bool:
    """Say whether a name stands for several shards."""
    return name.endswith(".tar") and any(mark in name for mark in "{*?[")


def _name(path: Path, split: str | None) -> str:
    stem = readable(path.resolve().name if _is_folder(path) else path.stem)
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
    source, name = manifest.source, manifest.name
    kind = source["kind"]
    if kind == "hub":
        split, hub = how.get("split"), str(source["path"])
        local = inside(root, hub)
        where = str(local) if local is not None and local.is_dir() else hub
        config, first = source.get("config"), source.get("first_rows")
        return _read_hub(
            where,
            split,
            columns,
            root,
            config=config,
            first_rows=first,
            keep=keep,
            class_names=manifest.class_names,
        )
    if kind in ("table", "coco", "token"):
        images = _inside(root, how.get("images") or source.get("images", "."), name)
        if "rows" in source and "path" not in how:
            rows, where = source["rows"], str(manifest.path)
            return read_rows(rows, where=where, root=images, columns=columns, keep=keep)
        path = _inside(root, _path(manifest, how), name)
        if kind == "coco":
            return read_coco(path, root=images, keep=keep)
        if kind == "token":
            return read_token(path, root=images, keep=keep)
        return _read_table(path, columns, images, keep, manifest.class_names)
    samples: Sequence[Sample]
    if kind == "folder":
        samples, rejects = read_folder(_inside(root, how.get("path", "."), name))
    elif kind == "webdataset":
        shards = expand_shards(_path(manifest, how), root)
        for shard in shards:
            _inside(root, os.path.relpath(shard, root), name)
        samples, rejects = read_webdataset(shards, progress=progress)
    else:
        options = {key: value for key, value in source.items() if key != "kind"}
        samples, rejects = load_openmoji(**options, progress=progress), []
    if keep is not None:
        samples = [sample for sample in samples if keep(sample.metadata, sample.id)]
        rejects = [reject for reject in rejects if "column" in how or keep({}, reject.id)]
    return samples, rejects


def _path(manifest: Manifest, how: Mapping[str, str]) -> Any:
    """Return the path, or paths, that a split has or else the source."""
    path = how.get("path") or manifest.source.get("path")
    if path is None:
        splits = ", ".join(manifest.splits)
        raise DataError(f"data set {manifest.name} has several splits: name one of {splits}")
    return path


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
    _is_there(path)  # a pipe is refused; what is not there is told of by who reads it
    return path


def _dataset(name: str, read: Read, manifest: Manifest | None = None) -> Dataset:
    samples, rejects = read
    rejects = [Reject(reject.id, reject.reason, readable(reject.where)) for reject in rejects]
    labels = _labels(samples)
    if manifest is None:
        return Dataset(name, samples, tuple(labels), rejects=tuple(rejects))
    known = set(manifest.class_names)
    if known and not known.issuperset(labels):
        wrong = [s for s in samples if s.label is not None and s.label not in known]
        rejects = rejects + [
            Reject(s.id, "label is not among class_names", str(s.label)) for s in wrong
        ]
        samples = [s for s in samples if s.label is None or s.label in known]
        labels = _labels(samples)
    return Dataset(
        name,
        samples,
        tuple(manifest.class_names or labels),
        tuple(manifest.templates),
        tuple(rejects),
        manifest.licence,
        manifest.homepage,
    )


def _labels(samples: Sequence[Sample]) -> list[str]:
    """Return the labels that occur, sorted; a table on disk is asked for its own."""
    if isinstance(samples, ColumnarSamples):
        return samples.labels()
    return sorted({sample.label for sample in samples if sample.label is not None})
