"""One look through a table on disk, to say which of its rows can be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt64

from clipkit.data.cells import (
    as_text,
    image_source,
    is_text,
    plain_captions,
    plain_images,
    row_id,
)
from clipkit.data.columnar import ColumnarSamples, Rows
from clipkit.data.decode import file_problem
from clipkit.data.hashing import hash_strings
from clipkit.data.table import Columns, Keep, clean_captions, is_nothing, resolve_columns
from clipkit.errors import DataError
from clipkit.types import Reject

CHECKED_FILES = 200_000
"""Up to so many samples it is checked at once that each file is there; beyond, when it is read."""


def read_columnar(
    rows: Rows,
    *,
    columns: Columns | None = None,
    root: Path,
    keep: Keep | None = None,
    class_names: Sequence[str] = (),
) -> tuple[ColumnarSamples, list[Reject]]:
    """Look through a table once and say which of its rows can be used.

    Rows that name the same image become one sample with all their captions.

    Args:
        rows: the table.
        columns: which columns hold what.
        root: what image paths are relative to.
        keep: given a row and its image's name, whether the row is wanted.
        class_names: names, in the order of the table's own, for a label that is a number.

    Returns:
        The samples in the order of their first rows, and the rows that cannot be used.

    Raises:
        DataError: there is no column of images, or one is of an unusable type, or the class names
            are not as many as the table's.
    """
    names = resolve_columns(columns or Columns(), rows.columns, rows.where)
    classes = _classes(rows, names, class_names)
    scan = _Scan(rows, names, root, keep)
    for batch in rows.batches(list(dict.fromkeys(names.values()))):
        scan.add(batch)
    groups, starts = scan.groups()
    samples = ColumnarSamples(rows, names, classes=classes, root=root, groups=groups, starts=starts)
    if "id" in names:
        samples = _without_repeated_ids(samples, scan)
    if len(samples) <= CHECKED_FILES and scan.holds_paths:
        samples = _without_missing_files(samples, scan)
    return samples, rows.rejects() + scan.rejects


def _classes(rows: Rows, names: Mapping[str, str], class_names: Sequence[str]) -> list[str] | None:
    own = rows.class_names(names["label"]) if "label" in names else None
    if own is None or not class_names:
        return own
    if len(own) != len(class_names):
        raise DataError(
            f"{rows.where} has {len(own)} classes in column {names['label']!r}, and"
            f" {len(class_names)} class_names are given for them"
        )
    return list(class_names)


def _without_repeated_ids(samples: ColumnarSamples, scan: "_Scan") -> ColumnarSamples:
    """Leave out samples whose id an earlier one has."""
    firsts = samples.first_rows()
    given = scan.of_rows(scan.ids, firsts)
    ordered = np.sort(given)
    if not (ordered[1:] == ordered[:-1]).any():
        return samples
    fresh = np.zeros(len(firsts), dtype=bool)
    fresh[np.unique(given, return_index=True)[1]] = True
    for at in np.flatnonzero(~fresh):
        number = int(firsts[at])
        value = scan.table.row(number).get(scan.names["id"])
        if is_nothing(value):
            fresh[at] = True  # its place in the table is its id
        else:
            scan.reject(str(value), "id is that of another image", number)
    return samples.take(np.flatnonzero(fresh))


def _without_missing_files(samples: ColumnarSamples, scan: "_Scan") -> ColumnarSamples:
    """Leave out samples whose image is a file that is not there."""
    there = np.ones(len(samples), dtype=bool)
    for at, number in enumerate(samples.first_rows()):
        row = scan.table.row(int(number))
        image = image_source(row.get(scan.names["image"]), scan.root)
        if isinstance(image, Path) and (problem := file_problem(image)):
            there[at] = False
            scan.reject(row_id(int(number), row, scan.names), problem, int(number))
    return samples if there.all() else samples.take(np.flatnonzero(there))


@dataclass
class _Scan:
    """Goes through a table's batches and remembers which rows can be used."""

    table: Rows
    names: Mapping[str, str]
    root: Path
    keep: Keep | None
    rejects: list[Reject] = field(default_factory=list)
    count: int = 0
    unusable: list[Int[np.ndarray, " rows"]] = field(default_factory=list)
    keys: list[UInt64[np.ndarray, " rows"]] = field(default_factory=list)
    ids: list[UInt64[np.ndarray, " rows"]] = field(default_factory=list)
    holds_paths: bool = False

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at one batch."""
        image = batch.column(self.names["image"])
        self.holds_paths |= not (pa.types.is_binary(image.type) or pa.types.is_null(image.type))
        plain = plain_images(image, self.table.where, self.names["image"])
        if "caption" in self.names:
            plain = plain & plain_captions(batch.column(self.names["caption"]))
        looked = np.arange(len(image)) if self.keep else np.flatnonzero(~plain)
        bad = [at for at in looked if not self._look(self.count + int(at))]
        if bad:
            self.unusable.append(np.array(bad, dtype=np.int64) + self.count)
        if is_text(image.type):
            self.keys.append(hash_strings(image))
        if "id" in self.names:
            self.ids.append(hash_strings(as_text(batch.column(self.names["id"]))))
        self.count += len(image)

    def groups(
        self,
    ) -> tuple[Int[np.ndarray, " rows"] | None, Int[np.ndarray, " bounds"] | None]:
        """Return the usable rows, those of one image together, and where each image begins.

        `None` stands for all rows, and for each row by itself.
        """
        rows = np.delete(np.arange(self.count), joined(self.unusable)) if self.unusable else None
        if not self.keys:
            return rows, None
        keys = self.of_rows(self.keys, rows)
        self.keys.clear()
        ordered = np.sort(keys)
        if not (ordered[1:] == ordered[:-1]).any():
            return rows, None
        del ordered
        by_key = np.argsort(keys, kind="stable")
        new = np.ones(len(keys), dtype=bool)
        new[1:] = keys[by_key][1:] != keys[by_key][:-1]
        firsts = by_key[new]  # the first row of each image, images by key
        rank = np.empty(len(firsts), dtype=np.int64)
        rank[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
        owner = np.empty(len(keys), dtype=np.int64)
        owner[by_key] = rank[np.cumsum(new) - 1]
        del by_key, new
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(firsts))
        return (order if rows is None else rows[order]), np.concatenate([[0], np.cumsum(counts)])

    @staticmethod
    def of_rows(parts: list[Any], rows: Int[np.ndarray, " rows"] | None) -> Any:
        """Return what was remembered of some rows, or of all."""
        whole = joined(parts)
        return whole if rows is None else whole[rows]

    def _look(self, number: int) -> bool:
        """Judge one row closely; list what is wrong with it."""
        row = self.table.row(number)
        value = row.get(self.names["image"])
        image = image_source(value, self.root)
        id_ = row_id(number, row, self.names)
        if self.keep is not None:
            name = value.get("path") if isinstance(value, Mapping) else value
            if not self.keep(row, name if isinstance(name, str) else ""):
                return False
        if isinstance(image, str):
            self.reject(id_, image, number)
            return False
        if "caption" not in self.names:
            return True
        captions, reasons = clean_captions(row.get(self.names["caption"]))
        for reason in reasons if captions else reasons[:1]:
            self.reject(id_, reason, number)
        return bool(captions)

    def reject(self, id_: str, reason: str, number: int) -> None:
        """List a row."""
        self.rejects.append(Reject(id_, reason, self.table.place(number)))


def joined(parts: list[Any]) -> Any:
    """Return parts as one array, and keep only that."""
    if len(parts) != 1:
        parts[:] = [np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)]
    return parts[0]
