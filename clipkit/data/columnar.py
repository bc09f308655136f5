"""Rows that stay on disk: only row numbers are held, a row becomes a `Sample` when asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from clipkit.data.cells import image_source, row_id
from clipkit.data.table import clean_captions, is_nothing
from clipkit.errors import DataError
from clipkit.types import Reject, Sample


@runtime_checkable
class Rows(Protocol):
    """A table on disk whose rows can be read in any order."""

    where: str
    """Its name, for errors."""
    columns: list[str]
    """The names of its columns."""

    def __len__(self) -> int:
        """Return the number of rows; known for certain after the first `batches`."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some of the columns, from the first row to the last."""

    def row(self, number: int) -> dict[str, Any]:
        """Return one row."""

    def place(self, number: int) -> str:
        """Return where a row is, for people: its file and line or row."""

    def class_names(self, column: str) -> list[str] | None:
        """Return the names that a column's numbers stand for, if the table has them."""

    def types(self) -> Mapping[str, pa.DataType] | None:
        """Return the type of each column, or `None` where it is seen only row by row."""

    def digest(self) -> str:
        """Return a sha256 of the table's content, in hex."""

    def rejects(self) -> list[Reject]:
        """Return what could not even be read as rows."""


def spoken(label: str, templates: Sequence[str]) -> tuple[str, ...]:
    """Return the captions that say a label: each template with the label in place of its `{}`."""
    return tuple(template.replace("{}", label) for template in templates)


class ColumnarSamples(Sequence[Sample]):
    """Samples of a table on disk, made when they are asked for.

    Args:
        rows: the table.
        names: the column of each part: image, caption, label, id.
        classes: names of a label that is a number.
        root: what image paths are relative to.
        groups: the rows of each sample, the first of which gives all but the captions; all rows,
            each a sample, when `None`.
        starts: where in `groups` each sample begins, and the end; each row when `None`.
        templates: make captions of a label, in place of their one `{}`, where there are none.
    """

    def __init__(
        self,
        rows: Rows,
        names: Mapping[str, str],
        *,
        classes: Sequence[str] | None,
        root: Path,
        groups: Int[np.ndarray, " rows"] | None = None,
        starts: Int[np.ndarray, " bounds"] | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        """Keep the row numbers."""
        self._rows = rows
        self._names = dict(names)
        self._classes = classes
        self._root = root
        self._groups = groups
        self._starts = starts
        self._templates = tuple(templates)
        self._count = len(rows) if groups is None else len(groups)
        if starts is not None:
            self._count = len(starts) - 1

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or the list of those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= at < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        numbers = [int(number) for number in self._numbers(at)]
        return self._sample(numbers[0], [self._rows.row(number) for number in numbers])

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in order."""
        for index in range(len(self)):
            yield self[index]

    def labels(self) -> list[str]:
        """Return the labels that occur, sorted; for labels that are numbers, their names."""
        if "label" not in self._names:
            return []
        if self._classes is not None:
            return list(self._classes)
        found: set[str] = set()
        for _, cells in self._label_cells():
            values = cells if pa.types.is_nested(cells.type) else cells.unique()
            found.update(str(v).strip() for v in values.to_pylist() if not is_nothing(v))
        return sorted(found)

    @property
    def captioned(self) -> bool:
        """Whether each sample has a caption: rows without one were rejected, or there are none."""
        return "caption" in self._names or bool(self._templates)

    def labelled(self) -> Bool[np.ndarray, " samples"]:
        """Return which samples have a label; only its column is read."""
        found = np.zeros(len(self), dtype=bool)
        if "label" not in self._names:
            return found
        for at, cells in self._label_cells():
            told = [self._label_of(value) is not None for value in cells.to_pylist()]
            found[at : at + len(told)] = told
        return found

    def _label_cells(self) -> Iterator[tuple[int, pa.Array]]:
        """Yield the samples' cells of the label column, and which sample each run begins with."""
        firsts, start = self.first_rows(), 0  # ascending: samples are in the order of these
        for batch in self._rows.batches([self._names["label"]]):
            first, last = np.searchsorted(firsts, [start, start + batch.num_rows])
            yield int(first), batch.column(0).take(pa.array(firsts[first:last] - start))
            start += batch.num_rows

    def captioned_by(self, templates: Sequence[str]) -> "ColumnarSamples":
        """Return the samples with captions that say their label, see `templates`."""
        return self._like(self._groups, self._starts, templates)

    def metadata_types(self) -> dict[str, pa.DataType] | None:
        """Return the Arrow type of each metadata column, where the table knows it unread."""
        types = self._rows.types()
        if types is None:
            return None
        return {name: kind for name, kind in types.items() if name not in self._names.values()}

    def rows_digest(self) -> str:
        """Return a sha256 of the table's rows, in hex; images that are files are not read."""
        return self._rows.digest()

    def first_rows(self) -> Int[np.ndarray, " samples"]:
        """Return the number of each sample's first row in the table."""
        if self._groups is None:
            return np.arange(self._count)
        return self._groups if self._starts is None else self._groups[self._starts[:-1]]

    def take(self, indices: Int[np.ndarray, " samples"]) -> "ColumnarSamples":
        """Return some of the samples."""
        if self._starts is None or self._groups is None:
            groups, starts = self.first_rows()[indices], None
        else:
            counts = np.diff(self._starts)[indices]
            starts = np.concatenate([[0], np.cumsum(counts)])
            within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
            groups = self._groups[np.repeat(self._starts[:-1][indices], counts) + within]
        return self._like(groups, starts, self._templates)

    def _like(
        self,
        groups: Int[np.ndarray, " rows"] | None,
        starts: Int[np.ndarray, " bounds"] | None,
        templates: Sequence[str],
    ) -> "ColumnarSamples":
        return ColumnarSamples(
            self._rows,
            self._names,
            classes=self._classes,
            root=self._root,
            groups=groups,
            starts=starts,
            templates=templates,
        )

    def _numbers(self, at: int) -> Sequence[Any]:
        if self._groups is None:
            return [at]
        if self._starts is None:
            return [self._groups[at]]
        return list(self._groups[self._starts[at] : self._starts[at + 1]])

    def _sample(self, number: int, rows: list[dict[str, Any]]) -> Sample:
        names, row = self._names, rows[0]
        image = image_source(row.get(names["image"]), self._root)
        if isinstance(image, str):
            raise DataError(f"{self._rows.place(number)}: {image}; the file changed meanwhile")
        captions: list[str] = []
        if "caption" in names:
            for each in rows:
                captions += clean_captions(each.get(names["caption"]))[0]
        metadata = {key: value for key, value in row.items() if key not in names.values()}
        label = self._label_of(row.get(names["label"]) if "label" in names else None)
        if label is not None and self._templates:
            captions = list(spoken(label, self._templates))
        return Sample(row_id(number, row, names), image, tuple(captions), label, metadata)

    def _label_of(self, value: Any) -> str | None:
        if is_nothing(value):
            return None
        if self._classes is not None and isinstance(value, int):
            return self._classes[value] if 0 <= value < len(self._classes) else None
        return str(value).strip()
