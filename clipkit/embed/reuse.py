"""Embeddings that a store has already, found by what they were made from."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from clipkit.data.hashing import hash_strings

KEY = 16
"""Bytes of a key: 128 bits of a sha256."""


class Reuse:
    """The rows of some shards by kind and content; 24 bytes a row are held in memory.

    Args:
        shards: files of a store whose bytes are known to be whole; those that do not tell what
            their rows were made from, as of embeddings that another program made, are of no use.
    """

    def __init__(self, shards: Sequence[Path] = ()) -> None:
        """Read the column of hashes of each shard."""
        self.shards = tuple(s for s in shards if "sha256" in pq.read_schema(s).names)
        keys, places = [], []
        for number, shard in enumerate(self.shards):
            table = pq.read_table(shard, columns=["kind", "sha256"], memory_map=False)
            told = zip(table["kind"].to_pylist(), table["sha256"].to_pylist(), strict=True)
            keys.append(np.array([_key(kind, sha256) for kind, sha256 in told], f"S{KEY}"))
            places.append((np.int64(number) << 32) + np.arange(len(table)))
        joined = np.concatenate([*keys, np.empty(0, f"S{KEY}")])
        order = np.argsort(joined, kind="stable")
        self._keys = joined[order]
        self._places = np.concatenate([*places, np.empty(0, np.int64)])[order]
        self._lock = threading.Lock()
        self._read: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._keys)

    def has(self, kind: str, sha256: str) -> bool:
        """Say whether there is an embedding of some content."""
        return self._find(kind, sha256) is not None

    def get(self, kind: str, sha256: str) -> Float[np.ndarray, " dim"] | None:
        """Return the embedding of some content, if there is one."""
        found = self._find(kind, sha256)
        if found is None:
            return None
        shard, row = found >> 32, found & 0xFFFFFFFF
        with self._lock:
            if self._read is None or self._read[0] != shard:
                column = pq.read_table(self.shards[shard], columns=["embedding"])["embedding"]
                flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
                self._read = (shard, flat.reshape(len(column), -1))
            vector: np.ndarray = self._read[1][row].astype(np.float32)
        return vector

    def _find(self, kind: str, sha256: str) -> int | None:
        key = np.bytes_(_key(kind, sha256))
        at = int(np.searchsorted(self._keys, key))
        hit = at < len(self._keys) and self._keys[at] == key
        return int(self._places[at]) if hit else None


def count_removed(before: Sequence[Path], after: Sequence[Path], others: Sequence[str]) -> int:
    """Return how many rows of some shards have an id that others do not have.

    Args:
        before: shards.
        after: the shards in their place.
        others: ids that count as well.
    """
    gone = _ids(before)
    there = np.concatenate([_ids(after), hash_strings(pa.array(list(others), pa.string()))])
    return int((~np.isin(gone, there)).sum())


def _ids(shards: Sequence[Path]) -> np.ndarray:
    parts = [
        hash_strings(pq.read_table(shard, columns=["id"])["id"].combine_chunks())
        for shard in shards
    ]
    return np.concatenate([*parts, np.empty(0, np.uint64)])


def _key(kind: str, sha256: str) -> bytes:
    """Return a key without zero bytes at its end, which numpy would drop: its last bit says what.

    An image and a text of the same bytes are not the same.
    """
    key = bytes.fromhex(sha256[: 2 * KEY])
    return key[:-1] + bytes([(key[-1] & 0xFC) | 2 | (kind == "text")])
