"""The embedding store: parquet shards and a `store.json` that says what is in them.

    store.json            model, preprocessing, data, dim, dtype, and each shard's rows and sha256
    shard-00000.parquet   id, kind (image or text), embedding, caption, label, path, metadata, and
                          the sha256 of the image as it is stored, or of the caption
    rejects.parquet       rows of the input that are in no shard, with the reason
    .work                 only while the store is being written, see `clipkit.embed.work`

Files appear by atomic rename, so a shard exists whole or not at all. `datasets`, pandas, polars and
DuckDB read the shards as they are. Where a collection changed, shards whose rows changed are
written under new names (`shard-00003-2.parquet`), the store becomes the new one by the rename of
`store.json`, and then what that no longer names is removed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from clipkit.embed.searchable import Searchable
from clipkit.embed.vectors import as_matrix
from clipkit.embed.verify import verify_store
from clipkit.errors import MissingExtraError, ModelError, StoreError
from clipkit.models import DualEncoder, load
from clipkit.packages import replace_file
from clipkit.types import Reject

FORMAT = 2
INFO = "store.json"
REJECTS = "rejects.parquet"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a store.

    Attributes:
        file: its name.
        rows: in the file.
        covers: rows of the input that it is made from, those rejected included.
        sha256: of the file, in hex.
        skipped: samples of the input that had nothing to embed.
        listing: a sha256 of the samples' texts and the state of their images on the disk: while it
            is what it was, the images need not be read again. Empty where nobody knows.
    """

    file: str
    rows: int
    covers: int
    sha256: str
    skipped: int = 0
    listing: str = ""


@dataclass(slots=True)
class StoreInfo:
    """What `store.json` holds.

    Attributes:
        model: name and fingerprint of the model, and the fingerprint alone decides.
        preprocessing: of the images.
        data: name and fingerprint of the data set.
        what: images, captions or both.
        dim: width of an embedding.
        dtype: float32 or float16.
        normalised: embeddings have length 1.
        shard_rows: samples of the input that a shard is made from.
        input_rows: rows to be embedded, those rejected included; a guess until it is complete.
        precision: in which the model computed, float32 or bf16.
        rows: rows in the shards.
        rejected: rows in `rejects.parquet`.
        skipped: samples that had nothing to embed, and are not counted as rows.
        complete: every input row is in a shard or rejected.
        shards: the files, in order.
        rejects: the file of the rows that are in no shard.
        format: version of this description.
    """

    model: dict[str, str]
    preprocessing: dict[str, Any]
    data: dict[str, str]
    what: str
    dim: int
    dtype: str
    shard_rows: int
    input_rows: int
    normalised: bool = True
    precision: str = "float32"
    rows: int = 0
    rejected: int = 0
    skipped: int = 0
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)
    rejects: str = REJECTS
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write `store.json`; it appears whole."""
        replace_file(folder / INFO, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> "StoreInfo":
        """Read `store.json`; raises StoreError when it is missing, damaged or of a later format."""
        path = folder / INFO
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content["format"]
            shards = [Shard(**shard) for shard in content.pop("shards")]
            if found == FORMAT:
                return cls(**content, shards=shards)
        except OSError:
            raise StoreError(f"{folder} is no embedding store: it has no {INFO}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged: {error!r}") from None
        raise StoreError(
            f"{path} has format {found!r}; this clipkit reads format {FORMAT}: embed anew"
        )

    def miscounts(self, listed: int) -> list[str]:
        """Return what does not add up, nothing when every row of the input is accounted for.

        Args:
            listed: how many rows the file of rejects has.
        """
        problems = []
        held = sum(shard.rows for shard in self.shards)
        covered = sum(shard.covers for shard in self.shards)
        skipped = sum(shard.skipped for shard in self.shards)
        if held != self.rows:
            problems.append(f"the shards hold {held} rows, not the {self.rows} of {INFO}")
        if listed != self.rejected:
            problems.append(
                f"{self.rejects} lists {listed} rows, not the {self.rejected} of {INFO}"
            )
        if self.rows + self.rejected != self.input_rows or covered > self.input_rows:
            problems.append(
                f"{self.rows + self.rejected} rows are accounted for, of {self.input_rows}"
            )
        if skipped != self.skipped:
            problems.append(f"the shards skipped {skipped} samples, not {self.skipped}")
        return problems


@dataclass(frozen=True, slots=True)
class Made:
    """How the rows of a store came about, in the runs that made it what it is now.

    Attributes:
        encoded: rows that a model computed.
        reused: rows that the store had before.
        removed: rows that the store had and the input has no longer.
        redone: files that were damaged, and were made again.
        is_main: this process put the store together; false in the others that helped.
    """

    encoded: int = 0
    reused: int = 0
    removed: int = 0
    redone: tuple[str, ...] = ()
    is_main: bool = True


class EmbeddingStore(Searchable):
    """A finished store, ready to be read and searched.

    Args:
        path: the folder that `clipkit.embed` wrote.

    Attributes:
        path: the folder.
        info: what `store.json` holds.
        made: how it came about, where `clipkit.embed` returned it.

    Raises:
        StoreError: when it is no store, or an export that was not finished.

    Example:
        >>> store = EmbeddingStore("store/")  # doctest: +SKIP
        >>> store.search("a red flag", k=3)  # doctest: +SKIP
    """

    info: StoreInfo

    def __init__(self, path: str | Path) -> None:
        """Read `store.json`."""
        self.path = Path(path)
        self.info = StoreInfo.read(self.path)
        if not self.info.complete:
            done = sum(shard.covers for shard in self.info.shards)
            raise StoreError(
                f"{self.path} is not finished ({done} of {self.info.input_rows} rows): run the same"
                " `clipkit embed` again and it goes on from there"
            )
        self.made: Made | None = None
        self._model: DualEncoder | None = None
        super().__init__()

    def __len__(self) -> int:
        """Return the rows in the shards."""
        return self.info.rows

    def __repr__(self) -> str:
        """Show where it is and what is in it."""
        return (
            f"EmbeddingStore({str(self.path)!r}, rows={self.info.rows}, dim={self.info.dim},"
            f" model={self.info.model['name']!r})"
        )

    def iter_shards(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards one by one as tables; all columns when `None`.

        Raises:
            StoreError: when a shard is missing or damaged.
        """
        for shard in self.info.shards:
            with self._reading(shard.file):
                table = pq.read_table(self.path / shard.file, columns=columns, memory_map=True)
            yield table

    def embeddings(self) -> Float[np.ndarray, "rows dim"]:
        """Return all embeddings as float32, in the order of `ids`."""
        parts = [as_matrix(table["embedding"]) for table in self.iter_shards(["embedding"])]
        return np.concatenate(parts) if parts else np.zeros((0, self.info.dim), np.float32)

    def ids(self) -> list[str]:
        """Return the id of each row; an image and its captions have the same."""
        return [id_ for table in self.iter_shards(["id"]) for id_ in table["id"].to_pylist()]

    def rejected_places(self) -> dict[int, str]:
        """Return which of the rows to be embedded are in no shard, with the reason."""
        if not (self.path / self.info.rejects).is_file():
            return {}
        table = pq.read_table(self.path / self.info.rejects, columns=["row", "reason"])
        return {row["row"]: row["reason"] for row in table.to_pylist() if row["row"] >= 0}

    def rejects(self) -> list[Reject]:
        """Return the rows of the input that are in no shard, with the reason."""
        if not (self.path / self.info.rejects).is_file():
            return []
        table = pq.read_table(self.path / self.info.rejects, columns=["id", "reason", "where"])
        return [Reject(**row) for row in table.to_pylist()]

    def verify(self) -> list[str]:
        """Return what is wrong with the files, nothing when all is well."""
        return [str(problem) for problem in verify_store(self.path, self.info)]

    def schema(self) -> pa.Schema:
        """Return the columns."""
        for shard in self.info.shards:
            with self._reading(shard.file):
                return pq.read_schema(self.path / shard.file, memory_map=True)
        raise StoreError(f"{self.path} has no rows")

    def count_kinds(self) -> dict[str, int]:
        """Return how many rows of each kind there are."""
        counts: Counter[str] = Counter()
        for table in self.iter_shards(["kind"]):
            found = table["kind"].value_counts().to_pylist()
            counts.update({row["values"]: row["counts"] for row in found})
        return dict(sorted(counts.items()))

    def rows_at(
        self, rows: Sequence[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return some rows, without their embeddings, in the order they are asked for.

        Args:
            rows: their places in the store, counted from 0.
            columns: what to read of them; all but the embedding when `None`.

        Raises:
            StoreError: there is no such row, or a shard cannot be read.
        """
        ends = np.cumsum([shard.rows for shard in self.info.shards], dtype=np.int64)
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.info.rows):
            raise StoreError(f"{self.path} has rows 0 to {self.info.rows - 1}, not {wanted.max()}")
        shards = np.searchsorted(ends, wanted, side="right")
        found: list[dict[str, Any]] = [{} for _ in rows]
        for number in np.unique(shards):
            shard = self.info.shards[number]
            with self._reading(shard.file):
                file = pq.ParquetFile(self.path / shard.file, memory_map=True)
                names = [name for name in file.schema_arrow.names if name != "embedding"]
                table = file.read(names if columns is None else list(columns))
            places = np.flatnonzero(shards == number)
            part = table.take(wanted[places] - (ends[number] - shard.rows))
            for place, row in zip(places, part.to_pylist(), strict=True):
                found[place] = row
        return found

    @contextmanager
    def _reading(self, file: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise StoreError(f"{self.path / file} cannot be read: {reason}") from None

    def _matching(self, model: DualEncoder | None) -> DualEncoder:
        """Return the model, once its fingerprint is known to be that of the store."""
        wanted = self.info.model
        if model is None:
            if self._model is not None:
                return self._model
            try:
                model = load(wanted["name"])
            except MissingExtraError:
                raise
            except ModelError as error:
                raise StoreError(
                    f"{self.path} was made with model {wanted['name']!r}, which cannot be loaded"
                    f" ({error}); give it with model="
                ) from None
        if model.fingerprint() != wanted["fingerprint"]:
            raise StoreError(
                f"{self.path} was not made with model {model.name or 'given'}: its fingerprint is"
                f" {wanted['fingerprint'][:19]}…, not {model.fingerprint()[:19]}…"
            )
        self._model = model
        return model
