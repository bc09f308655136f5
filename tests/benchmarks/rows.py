"""From ten thousand rows to ten million: time to open a table, and memory to train on it.

    python -m tests.benchmarks.rows [ROWS ...]

Each size runs in a process of its own, for parquet and for JSON lines: the table is opened (the
first time, with nothing cached), and the starter's projections are trained on its first batches.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PICTURES, LINKS, PIECE = 100, "abcd", 250_000
BATCH, BATCHES = 64, 40


def make_pictures(folder: Path) -> None:
    """Draw JPEGs in a folder that leads back to itself, so that they have millions of names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize((320, 240)).save(folder / f"{number}.jpg")
    for link in LINKS:
        (folder / link).symlink_to(".")


def name(row: int) -> str:
    """Return a path that no other row has."""
    rest, picture = divmod(row, PICTURES)
    parts = []
    while rest:
        rest, digit = divmod(rest, len(LINKS))
        parts.append(LINKS[digit])
    return "/".join([*parts, f"{picture}.jpg"])


def pieces(rows: int) -> Iterator[list[dict[str, str]]]:
    """Yield rows, some at a time."""
    for start in range(0, rows, PIECE):
        yield [
            {
                "image": name(row),
                "caption": f"a photo of thing number {row} in a place of kind {row % 977}",
                "url": f"https://example.org/{row}",
            }
            for row in range(start, min(start + PIECE, rows))
        ]


def write(path: Path, rows: int) -> None:
    """Write a table of so many rows."""
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            for piece in pieces(rows):
                file.writelines(json.dumps(row) + "\n" for row in piece)
        return
    schema = pa.schema([(column, pa.string()) for column in ("image", "caption", "url")])
    with pq.ParquetWriter(path, schema) as writer:
        for piece in pieces(rows):
            writer.write_table(pa.Table.from_pylist(piece, schema))


def memory() -> int:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def measure(path: Path) -> None:
    """Open a table and train on its first batches, in this process."""
    import torch

    from clipkit.data import load_data
    from clipkit.losses import ClipLoss, positives_by_content
    from clipkit.models import load
    from clipkit.models.trainable import set_trainable
    from clipkit.train.batches import PairBatches
    from clipkit.train.feature_cache import FeatureCache

    began = time.perf_counter()
    data = load_data(path)
    opened = time.perf_counter() - began
    model = load("starter")
    set_trainable(model, "projections")
    loss, optimizer = (
        ClipLoss(),
        torch.optim.AdamW(p for p in model.parameters() if p.requires_grad),
    )
    pairs = PairBatches(model, data, FeatureCache(), batch_size=BATCH, seed=0, augment=True)
    levels = []
    for batch in islice(pairs.epoch(0), BATCHES):
        assert isinstance(batch.texts, dict) or batch.texts is not None
        images = model.encode_image(batch.images)
        texts = (
            model.encode_text(batch.texts)
            if isinstance(batch.texts, dict)
            else model.project_text(batch.texts)
        )
        positives = positives_by_content(batch.image_keys, batch.text_keys)
        optimizer.zero_grad()
        loss(images, texts, model.logit_scale, None, positives).backward()
        optimizer.step()
        levels.append(memory())
        if len(levels) == 1:
            first = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(
        f"{path.suffix[1:]:8} {len(data):>10,} rows: opened in {opened:5.1f} s, first step after"
        f" {first:5.1f} s; {levels[0]} MB then, {levels[len(levels) // 2]} MB after"
        f" {len(levels) // 2 + 1} steps, {levels[-1]} MB after {len(levels)}, peak {peak} MB\n"
    )


def main(sizes: tuple[int, ...]) -> None:
    """Measure each size in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / "images")
        for rows in sizes:
            for kind in ("parquet", "jsonl"):
                path = Path(folder) / "images" / f"{rows}.{kind}"
                write(path, rows)
                with tempfile.TemporaryDirectory() as cache:
                    command = [sys.executable, "-m", "tests.benchmarks.rows", str(path)]
                    subprocess.run(command, check=True, env={**os.environ, "CLIPKIT_CACHE": cache})
                path.unlink()


if __name__ == "__main__":
    given = sys.argv[1:]
    if given and not given[0].isdigit():
        measure(Path(given[0]))
    else:
        main(tuple(map(int, given)) or SIZES)
