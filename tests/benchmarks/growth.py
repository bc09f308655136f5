"""Ever more rows: what reading, export and search take, in time and in memory.

Reading opens a parquet file with nothing cached, and goes through all of its rows in a shuffled
order, as an epoch does, without decoding pictures. Export has a tiny image tower, so that what is
measured is all the rest. Search asks for the ten nearest of ten queries, one by one, exactly.
Seconds should grow no faster than rows, and memory hardly. The sizes have their turns one after
another, round by round, so that what else slows the machine down slows all of them.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import CLIPKIT
from tests.benchmarks.race import Row, interval
from tests.benchmarks.worker import Work

PICTURES, LINKS, PIECE = 100, "abcd", 250_000
DEEP = 9
"""Links that a path goes through, so that there are 26 million of them."""
STORE = ("clipkit.embed.store",)
"""What it takes to open a store."""
DIM, QUERIES = 512, 10
FEW = 100
"""Rows that a process has gone through before it is measured."""
ONCE_FROM = 40.0
"""Seconds; a size that takes them is gone through once."""


def run(bench: Bench) -> None:
    """Measure."""
    grow(
        bench,
        "growth: reading rows",
        "read",
        bench.pick((1_000, 20_000), (1_000, 10_000, 100_000, 1_000_000), (1_000_000, 10_000_000)),
        lambda rows: {
            "table": str(bench.prepare("growth:write_table", rows=rows)),
            "few": str(bench.prepare("growth:write_table", rows=FEW)),
        },
        ("clipkit.data",),
        rounds=5,
    )
    grow(
        bench,
        "growth: export with a tiny model",
        "export",
        bench.pick((200, 1_000), (1_000, 10_000), (1_000, 100_000, 1_000_000)),
        lambda rows: {
            "table": str(bench.prepare("growth:write_table", rows=rows)),
            "few": str(bench.prepare("growth:write_table", rows=FEW)),
            "out": str(bench.folder / f"store{rows}"),
        },
        CLIPKIT,
        rounds=3,
    )
    grow(
        bench,
        "growth: exact search",
        "search",
        bench.pick((1_000, 20_000), (1_000, 10_000, 100_000, 1_000_000)),
        lambda rows: {"store": str(bench.prepare("growth:write_store", imports=STORE, rows=rows))},
        STORE,
        rounds=5,
    )


def grow(
    bench: Bench,
    job: str,
    function: str,
    sizes: Sequence[int],
    given: Callable[[int], dict[str, Any]],
    imports: tuple[str, ...],
    *,
    rounds: int,
) -> None:
    """Measure one job at all sizes, and note how it grows.

    Args:
        bench: measures.
        job: what the work is.
        function: of this module.
        sizes: rows.
        given: to the function, for so many rows.
        imports: that its process has.
        rounds: but for the sizes that take long.
    """
    rows = bench.race(
        job,
        [
            Contender(f"clipkit, {size:,} rows", f"growth:{function}", given(size), imports=imports)
            for size in sizes
        ],
        amount=sizes,
        unit="rows",
        rounds=bench.pick(1, rounds),
        at_least=bench.pick(1, rounds),
        warm=False,
        once_from=ONCE_FROM,
    )
    for smaller, larger in pairwise(rows):
        if smaller.counts and larger.counts:
            larger.note = growth(smaller, larger)


def growth(smaller: Row, larger: Row) -> str:
    """Say how a job grew, by rounds; where the larger size has one, by the smaller one's alone."""
    times = larger.seconds * len(smaller.seconds) if len(larger.seconds) == 1 else larger.seconds
    longer, low, high = interval([b / a for a, b in zip(smaller.seconds, times, strict=False)])
    sure = f" ({low:.1f} to {high:.1f})" if len(smaller.seconds) > 1 else ""
    return (
        f"{smaller.amount:,.0f} to {larger.amount:,.0f} rows:"
        f" {larger.amount / smaller.amount:.0f} times as many, {longer:.1f} times as long{sure},"
        f" {smaller.memory_mb:.0f} to {larger.memory_mb:.0f} MB."
    )


def folder_of(number: int) -> str:
    """Return a path that leads back to the folder itself, another for each number, all as long."""
    parts = []
    for _ in range(DEEP):
        number, digit = divmod(number, len(LINKS))
        parts.append(f"{LINKS[digit]}/")
    return "".join(parts)


def pieces(rows: int) -> Iterator[dict[str, list[str]]]:
    """Yield columns of rows, some at a time, whose paths are all unlike one another."""
    for start in range(0, rows, PIECE):
        numbers = range(start, min(start + PIECE, rows))
        names = [
            f"{folder}{picture}.jpg"
            for folder in map(folder_of, range(start // PICTURES, -(-numbers.stop // PICTURES)))
            for picture in range(PICTURES)
        ]
        yield {
            "image": names[: len(numbers)],
            "caption": [
                f"a photo of thing number {row} in a place of kind {row % 977}" for row in numbers
            ],
            "url": [f"https://example.org/{row}" for row in numbers],
        }


def write_table(folder: str, rows: int) -> Work:
    """Write small pictures, and a parquet file of rows that name them."""

    def go() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        rng = np.random.default_rng(0)
        for number in range(PICTURES):
            small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((128, 96)).save(f"{folder}/{number}.jpg")
        for link in LINKS:
            (Path(folder) / link).symlink_to(".")
        schema = pa.schema([(column, pa.string()) for column in ("image", "caption", "url")])
        with pq.ParquetWriter(f"{folder}/rows.parquet", schema) as writer:
            for piece in pieces(rows):
                writer.write_table(pa.table(piece, schema))

    return Work(go)


def read(table: str, few: str) -> Work:
    """Open a table and look at each row."""
    from clipkit.data import load_data

    cache = f"{table}/cache"
    os.environ["CLIPKIT_CACHE"] = cache

    def go(table: str = table) -> float:
        data = load_data(f"{table}/rows.parquet")
        letters = 0
        for row in np.random.default_rng(0).permutation(len(data)).tolist():
            letters += len(data[row].captions[0])
        return float(letters)

    go(few)
    return Work(go, before=lambda: shutil.rmtree(cache, ignore_errors=True))


def export(table: str, few: str, out: str) -> Work:
    """Embed a table's pictures."""
    import clipkit
    from clipkit.models import fresh_towers

    model = fresh_towers("test_resnet.r160_in1k", size=64, text_width=64, text_layers=1, dim=64)
    clipkit.embed(model, f"{few}/rows.parquet", f"{out}-few")

    def go() -> None:
        store = clipkit.embed(model, f"{table}/rows.parquet", out)
        if not len(store):
            raise ValueError("the store is empty")

    return Work(go, before=lambda: shutil.rmtree(out, ignore_errors=True))


def write_store(folder: str, rows: int) -> Work:
    """Write a store of random embeddings."""
    from tests.benchmarks.search import make_store

    def go() -> None:
        make_store(Path(folder) / "store", "random", rows, DIM)

    return Work(go)


def search(store: str) -> Work:
    """Ask for the ten nearest."""
    from clipkit.embed.store import EmbeddingStore

    opened = EmbeddingStore(f"{store}/store")
    queries = np.random.default_rng(1).standard_normal((QUERIES, DIM))
    opened.search(queries[0], k=10)

    def go() -> None:
        for query in queries:
            opened.search(query, k=10)

    return Work(go)
