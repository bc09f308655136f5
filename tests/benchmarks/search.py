"""Searches of a store of made-up embeddings: exact, by an index, and what the index misses.

    python -m tests.benchmarks.search [--rows 1000000] [--index-rows 200000] [--threads 2]

The rows are float16, in a temporary folder. Those of an exact search are random; their search takes
as long as any. Graphs are made over three kinds of rows: clusters (each row near one of many
centres), a low rank (a few directions carry most, as in the embeddings of models), and none of
either (random, where a row has no neighbours to speak of: the hardest there is). Exact searches are
checked against float64 products first. Memory is that of the process, which searches and nothing
else.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from clipkit.embed.store import EmbeddingStore, StoreInfo
from clipkit.embed.tables import write_tables

KINDS = ("clusters", "low rank", "random")
SHARD_ROWS = 10_000
REPEATS = 7


def make_rows(kind: str, rows: int, dim: int) -> Iterator[np.ndarray]:
    """Yield rows of length 1, some at a time."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 50), dim), dtype=np.float32)
    directions = rng.standard_normal((64, dim), dtype=np.float32)
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        block = rng.standard_normal((count, dim), dtype=np.float32)
        if kind == "clusters":
            block = 0.7 * block + centres[rng.integers(0, len(centres), count)]
        elif kind == "low rank":
            block = 2 * block + rng.standard_normal((count, 64), dtype=np.float32) @ directions
        yield (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)


def make_store(folder: Path, kind: str, rows: int, dim: int) -> EmbeddingStore:
    """Write a store of such rows."""
    told = {"name": kind, "fingerprint": "sha256:0"}
    info = StoreInfo(told, {}, told, "images", dim, "float16", SHARD_ROWS, rows)

    def tables() -> Iterator[pa.Table]:
        start = 0
        for block in make_rows(kind, rows, dim):
            ids = [f"{row:09d}.jpg" for row in range(start, start + len(block))]
            texts: dict[str, object] = {
                "id": ids,
                "kind": ["image"] * len(block),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim),
                "caption": [f"a photo of {id}" for id in ids],
                "label": pa.array([str(row % 100) for row in range(len(block))]),
                "path": [f"/photos/{id}" for id in ids],
            }
            yield pa.table(texts)
            start += len(block)

    return write_tables(folder, info, tables())


def memory() -> float:
    """Return the most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def median(seconds: list[float]) -> float:
    """Return the median, of all but the first, which warms up."""
    return statistics.median(seconds[1:])


def measure_exact(folder: Path, threads: int) -> dict[str, float]:
    """Search a store; in a process of its own."""
    torch.set_num_threads(threads)
    store = EmbeddingStore(folder)
    rng = np.random.default_rng(1)
    start = time.perf_counter()
    store.vectors()
    found = {"file": time.perf_counter() - start}
    for name, count in (("one", 1), ("many", 100)):
        seconds = []
        for _ in range(REPEATS if count == 1 else 3):
            queries = rng.standard_normal((count, store.info.dim))
            start = time.perf_counter()
            store.search_many(queries, k=10)
            seconds.append(time.perf_counter() - start)
        found[name] = median(seconds)
    query = rng.standard_normal(store.info.dim)
    start = time.perf_counter()
    store.search(query, k=10, filter={"label": "7"})
    found["filtered"] = time.perf_counter() - start
    found["memory"] = memory()
    return found


def check(store: EmbeddingStore) -> None:
    """Compare a search with float64 products of all rows, shard by shard."""
    query = np.random.default_rng(2).standard_normal(store.info.dim)
    query /= np.linalg.norm(query)
    scores = np.concatenate(
        [block.double().numpy() @ query for _, block in store.vectors().blocks()]
    )
    expected = np.argsort(-scores, kind="stable")[:100]
    found, rows = store.nearest(query[None], 100)
    if rows[0].tolist() != expected.tolist() or abs(found[0] - scores[expected]).max() > 1e-14:
        raise SystemExit("an exact search gave other rows than float64 products")


def in_own_process(folder: Path, threads: int) -> dict[str, float]:
    """Measure exact searches where nothing else has used memory."""
    words = ["--measure", str(folder), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.search", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--index-rows", type=int, default=200_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measure_exact(given.measure, given.threads)))
        return
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.rows:
            store = make_store(folder / "exact", "random", given.rows, given.dim)
            found = in_own_process(store.path, given.threads)
            check(store)
            sys.stdout.write(
                f"exact, {given.rows} x {given.dim} float16: {found['one']:.3f} s a query,"
                f" {found['many'] / 100:.4f} s a query where 100 are asked together,"
                f" {found['filtered']:.3f} s with a filter, at most {found['memory']:.0f} MB;"
                f" {found['file']:.1f} s once for the file\n"
            )
            shutil.rmtree(store.path)
        for kind in filter(None, given.kinds.split(",") if given.index_rows else []):
            store = make_store(folder / kind, kind, given.index_rows, given.dim)
            made = store.build_index(recall=given.recall)
            told = {key: round(value, 5) if isinstance(value, float) else value
                    for key, value in asdict(made).items() if key != "fingerprint"}  # fmt: skip
            ratio = made.exact_seconds / made.index_seconds
            sys.stdout.write(f"index, {kind}: {ratio:.0f} times as fast, {told}\n")
            sys.stdout.flush()
            shutil.rmtree(store.path)


if __name__ == "__main__":
    main()
