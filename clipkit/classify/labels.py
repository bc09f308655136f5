"""Labels of a classifier: given as a list, as a mapping to names, or in a file."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipkit.data.dataset import Dataset
from clipkit.data.load import HUB, load_data
from clipkit.data.manifest import list_manifests, read_manifest
from clipkit.errors import ConfigError

Labels = Sequence[str] | Mapping[str, str | Sequence[str]] | str | Path | Dataset
"""Labels, labels with the names that stand for them, a file of either, or data with classes."""

LABEL_SUFFIXES = (".txt", ".json", ".csv")
MOST_CHARACTERS = 10_000
"""Of a label or a name; a model reads some hundred of them."""


def resolve_labels(labels: Labels) -> dict[str, tuple[str, ...]]:
    """Return each label with the names (synonyms, descriptions) that stand for it in prompts.

    Args:
        labels: a list; a mapping from label to one name or several; a file: txt (one label a
            line), json (a list or a mapping), csv (label, and names in the further columns); or
            data with classes: a data set, a manifest or another name that `load_data` takes.

    Raises:
        ConfigError: no file, no label, an empty label, a very long one, or one that occurs twice.
        DataError: the data cannot be read.

    >>> resolve_labels({"cat": ["cat", "kitten"]})
    {'cat': ('cat', 'kitten')}
    """
    where = "labels"
    if isinstance(labels, str | Path) and Path(labels).suffix.lower() not in LABEL_SUFFIXES:
        labels = _load(str(labels))
    if isinstance(labels, Dataset):
        where = f"labels of {labels.name}"
        rows: list[tuple[Any, Any]] = [(label, label) for label in labels.class_names]
    elif isinstance(labels, str | Path):
        where = f"labels file {str(labels)!r}"
        rows = _read(Path(labels), where)
    elif isinstance(labels, Mapping):
        rows = list(labels.items())
    else:
        rows = [(label, label) for label in labels]
    return _checked(rows, where)


def _load(name: str) -> Dataset:
    """Return data that is named in place of labels; of a manifest with classes, nothing else."""
    known = list_manifests()
    # A list written as one text may be longer than a name can be, which `Path.exists` raises for.
    there = os.path.exists(name.partition("@")[0])  # noqa: PTH110
    if name not in known and not there and not name.startswith(HUB):
        short = name if len(name) <= 40 else f"{name[:40]}…"
        endings = ", ".join(LABEL_SUFFIXES)
        raise ConfigError(
            f"labels: {short!r} is neither data nor a file that ends in one of {endings}; give a"
            " list for labels"
        )
    if name in known or name.endswith((".yaml", ".yml")):
        manifest = read_manifest(name)
        if manifest.class_names:
            return Dataset(manifest.name, [], tuple(manifest.class_names))
    return load_data(name)


def _read(path: Path, where: str) -> list[tuple[Any, Any]]:
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if suffix == ".json" else None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where} is damaged: {error}") from None
    if suffix == ".txt":
        return [(line.strip(), line.strip()) for line in text.splitlines() if line.strip()]
    if suffix == ".csv":
        lines = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
        filled = [[cell for cell in row if cell] for row in lines if any(row)]
        return [(row[0], tuple(row[1:]) or row[0]) for row in filled]
    if isinstance(content, list):
        return [(label, label) for label in content]
    if isinstance(content, dict):
        return list(content.items())
    raise ConfigError(f"{where} holds neither a list of labels nor a mapping from label to names")


def _checked(rows: Sequence[tuple[Any, Any]], where: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for label, given in rows:
        for text in (label, *([given] if isinstance(given, str) else given or ())):
            if isinstance(text, str) and len(text) > MOST_CHARACTERS:
                raise ConfigError(
                    f"{where}: label {text[:20]!r}… has {len(text):,} characters; a label or a name"
                    f" has at most {MOST_CHARACTERS:,}"
                )
        names = (given,) if isinstance(given, str) else given
        right = isinstance(names, Sequence) and all(isinstance(n, str) for n in (label, *names))
        if not right or not names:
            raise ConfigError(f"{where}: label {label!r} needs text for its name, not {given!r}")
        if not all(text.strip() for text in (label, *names)):
            raise ConfigError(f"{where}: label {label!r} is empty or has an empty name")
        if label in found:
            raise ConfigError(f"{where}: label {label!r} occurs twice")
        found[label] = tuple(names)
    if not found:
        raise ConfigError(f"{where}: there is no label")
    return found
