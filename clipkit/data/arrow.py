"""Rows that stay in Arrow on disk: parquet, Arrow files, and whatever `datasets` loads.

Nothing but row numbers is held in memory; a row becomes a `Sample` when it is asked for. The only
import of `datasets`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, UInt64

from clipkit.data.table import NOTHING, Columns, inside, is_nothing, resolve_columns
from clipkit.errors import DataError, did_you_mean
from clipkit.packages import cache_folder
from clipkit.types import ImageSource, Reject, Sample

SCAN_ROWS = 65_536
Keep = Callable[[Mapping[str, Any], str], bool]


class ArrowSamples(Sequence[Sample]):
    """Samples of a table on disk, made when they are asked for.

    Args:
        table: the rows, in Arrow's format.
        names: the column of each part: image, caption, label, id.
        classes: names of a label that is a number.
        root: what image paths are relative to.
        groups: the rows of each sample; the first gives all but the captions.
        starts: where in `groups` each sample begins, and the end.
    """

    def __init__(
        self,
        table: "datasets.Dataset",
        names: Mapping[str, str],
        *,
        classes: Sequence[str] | None,
        root: Path,
        groups: Int[np.ndarray, " rows"],
        starts: Int[np.ndarray, " bounds"],
    ) -> None:
        """Keep the row numbers."""
        self._table = table
        self._names = dict(names)
        self._classes = classes
        self._root = root
        self._groups = groups
        self._starts = starts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or the list of those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        numbers = self._groups[self._starts[at] : self._starts[at + 1]]
        rows = [self._table[int(number)].to_pylist()[0] for number in numbers]
        return self._sample(int(numbers[0]), rows)

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
        for batch in self._table.select_columns([self._names["label"]]).iter(SCAN_ROWS):
            for value in pc.unique(batch[self._names["label"]]).to_pylist():
                if not is_nothing(value):
                    found.add(str(value).strip())
        return sorted(found)

    def first_rows(self) -> Int[np.ndarray, " samples"]:
        """Return the number of each sample's first row in the table."""
        return self._groups[self._starts[:-1]]

    def take(self, indices: Int[np.ndarray, " samples"]) -> "ArrowSamples":
        """Return some of the samples."""
        counts = np.diff(self._starts)[indices]
        starts = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        groups = self._groups[np.repeat(self._starts[:-1][indices], counts) + within]
        return ArrowSamples(
            self._table,
            self._names,
            classes=self._classes,
            root=self._root,
            groups=groups,
            starts=starts,
        )

    def _sample(self, number: int, rows: list[dict[str, Any]]) -> Sample:
        names, row = self._names, rows[0]
        image = image_source(row[names["image"]], self._root) if "image" in names else None
        if isinstance(image, str):
            raise DataError(f"row {number}: {image}")
        captions = tuple(
            caption
            for each in rows
            for caption in _captions(each[names["caption"]] if "caption" in names else [])
        )
        metadata = {key: value for key, value in row.items() if key not in names.values()}
        return Sample(_id(number, row, names), image, captions, self._label(row), metadata)

    def _label(self, row: Mapping[str, Any]) -> str | None:
        value = row.get(self._names["label"]) if "label" in self._names else None
        if is_nothing(value):
            return None
        if self._classes is not None and isinstance(value, int):
            return self._classes[value] if 0 <= value < len(self._classes) else None
        return str(value).strip()


def read_arrow(
    table: "datasets.Dataset",
    *,
    where: str,
    columns: Columns | None = None,
    root: Path,
    keep: Keep | None = None,
) -> tuple[ArrowSamples, list[Reject]]:
    """Look through a table once and say which of its rows can be used.

    Rows that name the same image become one sample with all their captions. That a file is there
    is not checked: it is a reject when it is decoded.

    Args:
        table: what `datasets` loaded.
        where: its name, for errors.
        columns: which columns hold what.
        root: what image paths are relative to.
        keep: given a row without its image, and the image's name, whether the row is wanted.

    Returns:
        The samples in the order of their first rows, and the rows that cannot be used.

    Raises:
        DataError: there is no column of images or captions, or one is of an unusable type.
    """
    names = resolve_columns(columns or Columns(), table.column_names, where)
    classes = _classes(table, names)
    table = table.with_format("arrow")
    scan = _Scan(names, where, root, keep)
    seen = list(names.values()) if keep is None else table.column_names
    for batch in table.select_columns(seen).iter(SCAN_ROWS):
        scan.add(batch)
    groups, starts = scan.groups()
    samples = ArrowSamples(table, names, classes=classes, root=root, groups=groups, starts=starts)
    if "id" not in names:
        return samples, scan.rejects
    ids = table.select_columns([names["id"]])
    return _without_repeated_ids(samples, ids, names["id"], where, scan.rejects)


def _without_repeated_ids(
    samples: ArrowSamples,
    ids: "datasets.Dataset",
    column: str,
    where: str,
    rejects: list[Reject],
) -> tuple[ArrowSamples, list[Reject]]:
    """Leave out samples whose id an earlier one has."""
    keys = [
        hash_strings(batch[column].combine_chunks().cast(pa.string()).fill_null(""))
        for batch in ids.iter(SCAN_ROWS)
    ]
    firsts = samples.first_rows()
    given = np.concatenate([*keys, np.empty(0, dtype=np.uint64)])[firsts]
    fresh = np.zeros(len(firsts), dtype=bool)
    fresh[np.unique(given, return_index=True)[1]] = True
    for at in np.flatnonzero(~fresh):
        value = ids[int(firsts[at])][column][0].as_py()
        if is_nothing(value):
            fresh[at] = True  # its place in the table is its id
        else:
            place = f"{where} row {firsts[at]}"
            rejects.append(Reject(str(value), "id is that of another image", place))
    return samples if fresh.all() else samples.take(np.flatnonzero(fresh)), rejects


def open_parquet(path: Path, *, parts: str = "*.parquet") -> "datasets.Dataset":
    """Open a parquet or Arrow file, or a folder of parquet files.

    Raises:
        DataError: it cannot be read.
    """
    kind = "arrow" if path.suffix.lower() in (".arrow", ".feather") else "parquet"
    files = sorted(str(file) for file in path.glob(parts)) if path.is_dir() else [str(path)]
    try:
        if kind == "arrow" and (table := _feather(path)) is not None:
            return datasets.Dataset(table)
        return _quiet(
            lambda: datasets.load_dataset(
                kind, data_files=files, split="train", cache_dir=str(cache_folder() / "datasets")
            )
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {_cause(error)}") from error
    except Exception as error:  # datasets wraps what pyarrow raised in kinds of its own
        raise DataError(f"{path} cannot be read as {kind}: {_cause(error)}") from error


def open_hub(
    path: str, *, config: str | None = None, split: str | None = None, first_rows: int | None = None
) -> "datasets.Dataset":
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
    return loaded


def is_saved_dataset(folder: Path) -> bool:
    """Say whether a folder is what `save_to_disk` of `datasets` wrote, or holds parquet files."""
    marks = ("dataset_info.json", "dataset_dict.json")
    return any((folder / mark).is_file() for mark in marks) or any(folder.glob("*.parquet"))


def image_source(value: Any, root: Path) -> ImageSource | str:
    """Return the image that a cell holds, or the reason why there is none."""
    if isinstance(value, Mapping):
        content = value.get("bytes")
        value = content if content is not None else value.get("path")
    if isinstance(value, bytes):
        return value if value else "file is empty"
    name = "" if is_nothing(value) else str(value).strip()
    if not name:
        return "no image named"
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        return "image is an address, not a file"
    file = Path(name) if Path(name).is_absolute() else inside(root, name)
    return file if file is not None else "path leads out of the root folder"


@dataclass
class _Scan:
    """Goes through a table's batches and remembers which rows can be used."""

    names: Mapping[str, str]
    where: str
    root: Path
    keep: Keep | None
    rejects: list[Reject] = field(default_factory=list)
    count: int = 0
    rows: list[Int[np.ndarray, " rows"]] = field(default_factory=list)
    keys: list[UInt64[np.ndarray, " rows"]] = field(default_factory=list)

    def add(self, batch: pa.Table) -> None:
        """Look at one batch."""
        image = batch[self.names["image"]].combine_chunks()
        good = _has_image(image, self.where, self.names["image"])
        suspect = ~good
        if "caption" in self.names:
            suspect |= ~_all_captions(batch[self.names["caption"]].combine_chunks())
        if pa.types.is_string(image.type) or pa.types.is_large_string(image.type):
            suspect |= np.asarray(pc.match_substring_regex(image, r"^/|://|\.\.").fill_null(True))
        usable = np.ones(len(image), dtype=bool)
        looked = range(len(image)) if self.keep else np.flatnonzero(suspect)
        for at in looked:
            usable[at] = self._look(batch.slice(int(at), 1).to_pylist()[0], self.count + int(at))
        kept = np.flatnonzero(usable)
        self.rows.append(kept + self.count)
        if pa.types.is_string(image.type) or pa.types.is_large_string(image.type):
            self.keys.append(hash_strings(image.take(pa.array(kept))))
        self.count += len(image)

    def groups(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " bounds"]]:
        """Return the usable rows, those of one image together, and where each image begins."""
        rows = np.concatenate([*self.rows, np.empty(0, dtype=np.int64)]).astype(np.int64)
        if not self.keys:
            return rows, np.arange(len(rows) + 1)
        keys = np.concatenate(self.keys)
        by_key = np.argsort(keys, kind="stable")
        new = np.ones(len(keys), dtype=bool)
        new[1:] = keys[by_key][1:] != keys[by_key][:-1]
        if new.all():
            return rows, np.arange(len(rows) + 1)
        firsts = by_key[new]  # the first row of each image, images by key
        rank = np.empty(len(firsts), dtype=np.int64)
        rank[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
        owner = np.empty(len(keys), dtype=np.int64)
        owner[by_key] = rank[np.cumsum(new) - 1]
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(firsts))
        return rows[order], np.concatenate([[0], np.cumsum(counts)])

    def _look(self, row: dict[str, Any], number: int) -> bool:
        """Judge one row closely; list what is wrong with it."""
        image = image_source(row[self.names["image"]], self.root)
        id_ = _id(number, row, self.names)
        if self.keep is not None:
            value = row[self.names["image"]]
            name = value.get("path") if isinstance(value, Mapping) else value
            if not self.keep(row, name if isinstance(name, str) else ""):
                return False
        if isinstance(image, str):
            self._reject(id_, image, number)
            return False
        if "caption" not in self.names:
            return True
        told = row[self.names["caption"]]
        count = max(len(told), 1) if isinstance(told, list) else 1
        captions = _captions(told)
        for _ in range(count - len(captions)):
            self._reject(id_, "empty caption", number)
        return bool(captions)

    def _reject(self, id_: str, reason: str, number: int) -> None:
        self.rejects.append(Reject(id_, reason, f"{self.where} row {number}"))


def hash_strings(strings: Any) -> UInt64[np.ndarray, " rows"]:
    """Return 64 bits for each string of an Arrow array: equal for equal strings.

    Two of ten million different strings share theirs with a probability of about 3 in a million.
    """
    texts = strings.cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)
    offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    content = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    place = np.arange(len(content)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    rng = np.random.default_rng(20210)  # fixed: the same string has the same hash everywhere
    bits = rng.integers(0, 2**64, 256, dtype=np.uint64)
    longest = int(lengths.max(initial=0)) + 1
    odd = rng.integers(0, 2**64, longest, dtype=np.uint64) | np.uint64(1)
    mixed = bits[content] * odd[place]
    mixed ^= mixed >> np.uint64(29)
    total = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    ends = offsets - offsets[0]
    sums: np.ndarray = total[ends[1:]] - total[ends[:-1]]
    return sums + lengths.astype(np.uint64) * bits[0]


def _has_image(image: Any, where: str, column: str) -> np.ndarray:
    """Return which cells hold something that may be an image."""
    kind = image.type
    if pa.types.is_struct(kind):
        names = {item.name for item in kind}
        if not names & {"bytes", "path"}:
            raise DataError(
                f"{where}: column {column!r} is a struct of {', '.join(sorted(names))}; an image is"
                " a struct of bytes and path, bytes, or a path"
            )
        parts = [np.asarray(image.field(name).is_valid()) for name in names & {"bytes", "path"}]
        return np.asarray(image.is_valid()) & np.logical_or.reduce(parts)
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_null(kind)
    ):
        raise DataError(
            f"{where}: column {column!r} holds {kind}; an image is a struct of bytes and path,"
            " bytes, or a path"
        )
    return np.asarray(image.is_valid())


def _all_captions(cells: Any) -> np.ndarray:
    """Return which cells hold captions and nothing that is none."""
    kind = cells.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        plain = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
        nothing = pc.is_in(plain, value_set=pa.array(sorted(NOTHING), type=kind))
        return np.asarray(pc.and_(cells.is_valid(), pc.invert(nothing)).fill_null(False))
    return np.zeros(len(cells), dtype=bool)  # lists and numbers are looked at one by one


def _captions(value: Any) -> list[str]:
    told = value if isinstance(value, list) else [value]
    return [str(text).strip() for text in told if not is_nothing(text)]


def _id(number: int, row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if "id" in names and not is_nothing(row.get(names["id"])):
        return str(row[names["id"]]).strip()
    value = row.get(names.get("image", ""))
    return value.strip() if isinstance(value, str) and value.strip() else str(number)


def _classes(table: "datasets.Dataset", names: Mapping[str, str]) -> list[str] | None:
    feature = table.features.get(names.get("label", ""))
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _load(path: str, config: str | None, split: str | None, first_rows: int | None) -> Any:
    folder = Path(path)
    if folder.is_dir() and not any(folder.glob("*.parquet")) and is_saved_dataset(folder):
        return datasets.load_from_disk(path)
    cache = str(cache_folder() / "datasets")
    return datasets.load_dataset(
        path, config, split=split, streaming=first_rows is not None, cache_dir=cache
    )


def _quiet(load: Callable[[], Any]) -> Any:
    """Load without the library's own progress bars; it shows them again afterwards."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return load()
    finally:
        if shown:
            datasets.enable_progress_bars()


def _feather(path: Path) -> Any:
    """Return a table of an Arrow file in the file format, or `None` for the stream format."""
    try:
        with pa.memory_map(str(path)) as source:
            return datasets.table.InMemoryTable(pa.ipc.open_file(source).read_all())
    except pa.ArrowInvalid:
        return None


def _cause(error: BaseException) -> str:
    """Return the first line of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
