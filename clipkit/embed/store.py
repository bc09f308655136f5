"""The embedding store: parquet shards and a `store.json` that says what is in them.

    store.json            model, preprocessing, data, dim, dtype, and each shard's rows and sha256
    shard-00000.parquet   id, kind (image or text), embedding, caption, label, path, metadata
    rejects.parquet       rows of the input that are in no shard, with the reason

Files appear by atomic rename, so a shard exists whole or not at all. `datasets`, pandas, polars and
DuckDB read the shards as they are.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from PIL.Image import Image

from clipkit.embed.search import Hit, top_hits
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ImageError, MissingExtraError, ModelError, StoreError
from clipkit.models import DualEncoder, load
from clipkit.packages import file_sha256, replace_file
from clipkit.types import Reject

FORMAT = 1
INFO = "store.json"
REJECTS = "rejects.parquet"

Query = str | Path | Image | np.ndarray
"""A text, an image file, a PIL image, or an embedding."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a store: its name, its rows, the input rows it covers, and its sha256."""

    file: str
    rows: int
    covers: int
    sha256: str


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
        shard_rows: input rows that a shard covers.
        input_rows: rows to be embedded, those rejected included.
        rows: rows in the shards.
        rejected: rows in `rejects.parquet`.
        complete: every input row is in a shard or rejected.
        shards: the files, in order.
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
    rows: int = 0
    rejected: int = 0
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)
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
        raise StoreError(f"{path} has format {found!r}; this clipkit reads format {FORMAT}")


class EmbeddingStore:
    """A finished store, ready to be read and searched.

    Args:
        path: the folder that `clipkit.embed` wrote.

    Attributes:
        path: the folder.
        info: what `store.json` holds.

    Raises:
        StoreError: when it is no store, or an export that was not finished.

    Example:
        >>> store = EmbeddingStore("store/")  # doctest: +SKIP
        >>> store.search("a red flag", k=3)  # doctest: +SKIP
    """

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
        self._model: DualEncoder | None = None

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
            try:
                yield pq.read_table(self.path / shard.file, columns=columns, memory_map=True)
            except (OSError, pa.ArrowException) as error:
                reason = str(error).partition("\n")[0]
                raise StoreError(f"{self.path / shard.file} cannot be read: {reason}") from None

    def embeddings(self) -> Float[np.ndarray, "rows dim"]:
        """Return all embeddings as float32, in the order of `ids`."""
        parts = [as_matrix(table["embedding"]) for table in self.iter_shards(["embedding"])]
        return np.concatenate(parts) if parts else np.zeros((0, self.info.dim), np.float32)

    def ids(self) -> list[str]:
        """Return the id of each row; an image and its captions have the same."""
        return [id_ for table in self.iter_shards(["id"]) for id_ in table["id"].to_pylist()]

    def rejected_places(self) -> dict[int, str]:
        """Return which of the rows to be embedded are in no shard, with the reason."""
        if not (self.path / REJECTS).is_file():
            return {}
        table = pq.read_table(self.path / REJECTS, columns=["row", "reason"])
        return {row["row"]: row["reason"] for row in table.to_pylist() if row["row"] >= 0}

    def rejects(self) -> list[Reject]:
        """Return the rows of the input that are in no shard, with the reason."""
        if not (self.path / REJECTS).is_file():
            return []
        table = pq.read_table(self.path / REJECTS, columns=["id", "reason", "where"])
        return [Reject(**row) for row in table.to_pylist()]

    def verify(self) -> list[str]:
        """Return what is wrong with the files, nothing when all is well."""
        problems = []
        for shard in self.info.shards:
            path = self.path / shard.file
            if not path.is_file():
                problems.append(f"{shard.file} is missing")
            elif file_sha256(path) != shard.sha256:
                problems.append(f"{shard.file} was changed after it was written (sha256 differs)")
            elif pq.read_metadata(path).num_rows != shard.rows:
                problems.append(f"{shard.file} has not the {shard.rows} rows it should have")
        counted = self.info.rows + self.info.rejected
        if counted != self.info.input_rows:
            problems.append(f"{counted} rows are accounted for, of {self.info.input_rows}")
        if not problems and self.info.normalised:
            norms = np.linalg.norm(self.embeddings(), axis=1)
            wrong = int((~(np.abs(norms - 1) < 1e-2)).sum())
            if wrong:
                problems.append(f"{wrong} embeddings have not length 1")
        return problems

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        kind: str | None = None,
        model: DualEncoder | None = None,
    ) -> list[Hit]:
        """Return the k rows nearest to a query by cosine, the nearest first; the search is exact.

        Args:
            query: a text; a `Path` or PIL image for an image; or an embedding [dim].
            k: how many rows at most.
            kind: "image" or "text" to look among these rows alone.
            model: encodes the query; the one that made the store is loaded when `None`.

        Raises:
            StoreError: the model is not the one that made the store, or the query does not fit.
        """
        if k < 1:
            raise StoreError(f"k must be at least 1, not {k}")
        if kind not in (None, "image", "text"):
            raise StoreError(f"kind must be 'image' or 'text', not {kind!r}")
        vector = self._encode(query, model)
        return top_hits(self.iter_shards(), vector, k, kind)

    def _encode(self, query: Query, model: DualEncoder | None) -> Float[np.ndarray, " dim"]:
        if isinstance(query, np.ndarray):
            if query.shape != (self.info.dim,) or not np.linalg.norm(query) > 0:
                raise StoreError(
                    f"the query is an array {list(query.shape)}; an embedding of this store is"
                    f" [{self.info.dim}] and not zero"
                )
            unit: np.ndarray = (query / np.linalg.norm(query)).astype(np.float32)
            return unit
        encoder = self._matching(model)
        if isinstance(query, str):
            text: np.ndarray = encode_texts(encoder, [query])[0].numpy()
            return text
        features, kept, errors = encode_images(encoder, [query])
        if not kept:
            raise ImageError(f"the query image {query} cannot be used: {errors[0][1]}")
        image: np.ndarray = features[0].numpy()
        return image

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


def as_matrix(column: pa.ChunkedArray) -> Float[np.ndarray, "rows dim"]:
    """Return a column of embeddings as float32 [rows, dim]."""
    parts = [
        chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        for chunk in column.chunks
        if len(chunk)
    ]
    if not parts:
        return np.zeros((0, column.type.list_size), np.float32)
    matrix: np.ndarray = np.concatenate(parts).astype(np.float32, copy=False)
    return matrix
