"""Manifests: files of `data_manifests/` that say where a data set is and how it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from clipkit.data.table import Columns
from clipkit.errors import DataError, did_you_mean
from clipkit.imagenet import imagenet_class_names, imagenet_templates
from clipkit.packages import replace_file, shipped_folder

# What `source` may hold, by its kind.
_SOURCE_KEYS = {
    "folder": {"root"},
    "table": {"root", "path", "rows", "images"},
    "coco": {"root", "path", "images"},
    "token": {"root", "path", "images"},
    "webdataset": {"root", "path"},
    "hub": {"root", "path", "config", "first_rows"},
    "openmoji": {"size", "split_by", "holdout"},
}
_SPLIT_KEYS = ({"file"}, {"path"}, {"path", "images"}, {"split"}, {"column", "value"})

NAMED_LISTS: dict[str, dict[str, Callable[[], tuple[str, ...]]]] = {
    "class_names": {"imagenet": imagenet_class_names},
    "templates": {"imagenet": imagenet_templates},
}
"""Lists that a manifest may call by their name instead of writing them out."""


class _NamedList(Sequence[str]):
    """A list that is looked up when it is first read: open_clip takes seconds to import."""

    def __init__(self, look_up: Callable[[], tuple[str, ...]]) -> None:
        self._look_up = look_up

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return self._look_up()

    def __getitem__(self, index: Any) -> Any:
        return self._texts[index]

    def __len__(self) -> int:
        return len(self._texts)


@dataclass(frozen=True)
class Manifest:
    """A checked file of `data_manifests/`: where a data set is and how it is read.

    Attributes:
        name: what results call the data set.
        source: `kind` (folder, table, coco, token, webdataset, hub, openmoji) and its options.
        path: the file.
        title: one line on what it is.
        licence: of the data.
        homepage: of the data.
        columns: which columns hold what.
        splits: for each name `{file: ...}`, `{path: ...}`, `{path: ..., images: ...}`, `{column:
            ..., value: ...}` or, of a hub set, `{split: ...}`.
        class_names: of a labelled set; `imagenet` stands for ImageNet's.
        templates: prompts that suit them, each with one `{}`; `imagenet` stands for CLIP's 80.
    """

    name: str
    source: Mapping[str, Any]
    path: Path
    title: str = ""
    licence: str = ""
    homepage: str = ""
    columns: Columns = field(default_factory=Columns)
    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    templates: Sequence[str] = ()


def list_manifests() -> dict[str, Path]:
    """Return the data sets that ship with clipkit: their names and manifest files."""
    return {path.stem: path for path in sorted(shipped_folder("data_manifests").glob("*.yaml"))}


def read_manifest(name: str | Path) -> Manifest:
    """Read and check a manifest, by its file or by the name of one that ships.

    Raises:
        DataError: there is none, or it has problems; all of them are named.
    """
    path = list_manifests().get(str(name), Path(name))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        near = did_you_mean(str(name), list_manifests())
        raise DataError(f"no manifest {str(name)!r}: {error.strerror}{near}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    problems = _problems(content)
    if problems:
        raise DataError(
            "\n".join([f"{path} cannot be used:", *(f"  - {problem}" for problem in problems)])
        )
    content = {key: value for key, value in content.items() if value is not None}
    return Manifest(
        **{
            **content,
            "path": path,
            "columns": Columns(**content.get("columns", {})),
            **{key: _texts(key, content.get(key, ())) for key in NAMED_LISTS},
        }
    )


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest, once it is known that it can be read.

    Raises:
        DataError: it cannot; all its problems are named.
    """
    problems = _problems(dict(content))
    if problems:
        raise DataError(
            "\n".join([f"{path} cannot be used:", *(f"  - {problem}" for problem in problems)])
        )
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=100)
    replace_file(path, text.encode())


def _texts(key: str, value: str | Sequence[str]) -> Sequence[str]:
    """Return a list that is written out, or the one that is named."""
    return _NamedList(NAMED_LISTS[key][value]) if isinstance(value, str) else tuple(value)


def _problems(content: Any) -> list[str]:
    """Return everything that is wrong with what a manifest says."""
    if not isinstance(content, dict):
        return ["it is not a mapping of fields"]
    problems = _unknown("field", content, {part.name for part in fields(Manifest)} - {"path"})
    for key in ("name", "title", "licence", "homepage"):
        if not isinstance(content.get(key, ""), str):
            problems.append(f"{key} is not text: {content[key]!r}")
    if not content.get("name"):
        problems.append("name is missing")
    for key, named in NAMED_LISTS.items():
        value = [] if content.get(key) is None else content[key]
        if isinstance(value, str):
            if value not in named:
                near = did_you_mean(value, named)
                problems.append(f"{key} is neither a list nor the name of one: {value!r}{near}")
        elif not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            problems.append(f"{key} is not a list of texts; numbers and yes or no need quotes")
        elif key == "templates":
            problems += [
                f"template {t!r} has not exactly one {{}}" for t in value if t.count("{}") != 1
            ]
        elif len(set(value)) < len(value):
            problems.append("class_names has a name twice")
    problems += _source_problems(content.get("source"), content.get("splits"))
    columns = content.get("columns") or {}
    if not isinstance(columns, dict) or not all(isinstance(c, str) for c in columns.values()):
        problems.append("columns is not a mapping such as {image: file_name, caption: text}")
    else:
        problems += _unknown("column", columns, {part.name for part in fields(Columns)})
    splits = content.get("splits") or {}
    for split, how in splits.items() if isinstance(splits, dict) else [("splits", splits)]:
        if not isinstance(how, dict) or set(how) not in _SPLIT_KEYS:
            shapes = "{file}, {path}, {path, images}, {split}, {column, value}"
            problems.append(f"split {split!r} is none of {shapes}: {how!r}")
    return problems


def _source_problems(source: Any, splits: Any) -> list[str]:
    if not isinstance(source, dict) or "kind" not in source:
        return [f"source is not a mapping with a kind; kinds: {', '.join(_SOURCE_KEYS)}"]
    kind = source["kind"]
    if kind not in _SOURCE_KEYS:
        return [f"source has kind {kind!r}{did_you_mean(str(kind), _SOURCE_KEYS)}"]
    problems = _unknown(f"option of a source of kind {kind}", source, _SOURCE_KEYS[kind] | {"kind"})
    for key in ("root", "path", "images", "config"):
        several = key == "path" and kind == "webdataset" and isinstance(source.get(key), list)
        if not several and not isinstance(source.get(key, ""), str):
            problems.append(f"source.{key} is not text: {source[key]!r}")
    if kind == "folder" and "root" not in source:
        problems.append("source has no root: the folder of images")
    given = source.keys() & {"path", "rows"}
    elsewhere = kind != "hub" and _each_has_a_path(splits)
    if kind == "table" and (len(given) > 1 or not (given or elsewhere)):
        problems.append("source needs either a path or rows")
    if kind in ("coco", "token", "webdataset", "hub") and not (given or elsewhere):
        problems.append(f"source has no path, which a source of kind {kind} needs")
    first = source.get("first_rows", 1)
    if not isinstance(first, int) or first < 1:
        problems.append(f"source.first_rows is not a number of rows: {first!r}")
    rows = source.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append("source.rows is not a list of mappings")
    return problems


def _each_has_a_path(splits: Any) -> bool:
    """Say whether there are splits, each with a path of its own."""
    told = list(splits.values()) if isinstance(splits, dict) else []
    return bool(told) and all(isinstance(how, dict) and "path" in how for how in told)


def _unknown(what: str, given: Mapping[str, Any], known: set[str]) -> list[str]:
    return [
        f"unknown {what} {key!r}{did_you_mean(str(key), known)}"
        for key in given
        if key not in known
    ]
