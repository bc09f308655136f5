"""Whatever `datasets` loads: sets of the hub, and folders that it has written. Its only import."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from clipkit.data.cells import check_text
from clipkit.errors import DataError, did_you_mean
from clipkit.packages import cache_folder
from clipkit.types import Reject

_SCAN_ROWS = 16_384


class HubRows:
    """Rows of a set that `datasets` has loaded, as Arrow has them: images stay undecoded.

    Args:
        where: the set's name, for errors.
        table: what `datasets` loaded.
    """

    def __init__(self, where: str, table: "datasets.Dataset") -> None:
        """Keep the table."""
        self.where = where
        self.columns = list(table.column_names)
        self._features = table.features
        self._table = table.with_format("arrow")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._table)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some of the columns, many rows at a time."""
        for table in self._table.select_columns(list(columns)).iter(_SCAN_ROWS):
            for batch in table.combine_chunks().to_batches():
                yield check_text(batch, self.where)

    def row(self, number: int) -> dict[str, Any]:
        """Return one row."""
        row: dict[str, Any] = self._table[number].to_pylist()[0]
        return row

    def place(self, number: int) -> str:
        """Return the set and the row, counted from 0."""
        return f"{self.where} row {number}"

    def class_names(self, column: str) -> list[str] | None:
        """Return the names of a ClassLabel column."""
        feature = self._features.get(column)
        return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column."""
        return {field.name: field.type for field in self._features.arrow_schema}

    def digest(self) -> str:
        """Return a sha256 of all columns, batch after batch."""
        digest = hashlib.sha256(repr(self._features).encode())
        for batch in self.batches(self.columns):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            digest.update(sink.getvalue())
        return digest.hexdigest()

    def rejects(self) -> list[Reject]:
        """Return nothing: `datasets` loads a set as a whole or not at all."""
        return []


def open_hub(
    path: str, *, config: str | None = None, split: str | None = None, first_rows: int | None = None
) -> HubRows:
    """Open a set by its hub name, or a local folder that `datasets` reads or has written.

    Args:
        path: hub name or folder.
        config: of the set, where it has several.
        split: of the set; may be left out when there is only one.
        first_rows: stream, and keep only so many rows: to try a set that is too large to fetch.

    Raises:
        DataError: it cannot be loaded, or there are several splits and none is named.
    """
    try:
        loaded = _quiet(lambda: _load(path, config, split, first_rows))
    except DataError:
        raise
    except Exception as error:  # of very many kinds, from the network down to parquet
        raise DataError(f"{path} cannot be loaded by datasets: {_cause(error)}") from error
    if isinstance(loaded, Mapping):
        splits = list(loaded)
        if split is not None and split not in splits:
            raise DataError(f"{path} has no split {split!r}{did_you_mean(split, splits)}")
        if split is None and len(splits) > 1:
            raise DataError(f"{path} has several splits: name one of {', '.join(splits)}")
        loaded = loaded[split or splits[0]]
    if first_rows is not None:
        rows = loaded.take(first_rows)
        loaded = datasets.Dataset.from_list(list(rows), features=rows.features)
    return HubRows(path, loaded)


def _load(path: str, config: str | None, split: str | None, first_rows: int | None) -> Any:
    if is_saved_dataset(Path(path)):
        loaded = datasets.load_from_disk(path)
        if split is not None and not isinstance(loaded, Mapping):
            raise DataError(f"{path} has no splits, and {split!r} is asked for")
        return loaded
    return datasets.load_dataset(
        path, config, split=split, streaming=first_rows is not None, cache_dir=str(_cache_of(path))
    )


def _cache_of(path: str) -> Path:
    """Return where `datasets` keeps what it made of a set; of a folder, of one state of it.

    Where a folder's card names the files, `datasets` itself takes any folder of that name, and what
    has changed in it, for what it has in its cache.
    """
    cache, folder = cache_folder() / "datasets", Path(path)
    if not folder.is_dir():
        return cache
    files = [file for file in sorted(folder.resolve().rglob("*")) if file.is_file()]
    stats = [file.stat() for file in files]
    state = [(str(f), s.st_size, s.st_mtime_ns) for f, s in zip(files, stats, strict=True)]
    return cache / f"folder-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"


def is_saved_dataset(folder: Path) -> bool:
    """Say whether a folder is what `save_to_disk` of `datasets` wrote."""
    marks = ("dataset_info.json", "dataset_dict.json")
    return any((folder / mark).is_file() for mark in marks) and not any(folder.glob("*.parquet"))


def _quiet(load: Callable[[], Any]) -> Any:
    """Load without the library's own progress bars; it shows them again afterwards."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return load()
    finally:
        if shown:
            datasets.enable_progress_bars()


def _cause(error: BaseException) -> str:
    """Return the first line of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
