"""The most memory of an export, by its number of rows: it should not grow with them.

    python -m tests.benchmarks.export_memory [1000 100000 ...]

A parquet file of so many rows, which name links to 50 small JPEGs, with a caption and two further
columns; a tiny image tower with random weights, so that what is measured is all the rest. Each size
runs in a process of its own, after a warm-up on 100 rows.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import clipkit
from clipkit.models import fresh_towers

PICTURES = 50


def most_memory() -> float:
    """Return this process's peak in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def export(folder: Path, rows: int) -> None:
    """Export a table that is there, and tell what that took."""
    model = fresh_towers("test_resnet.r160_in1k", size=64, text_width=64, text_layers=1, dim=64)
    clipkit.embed(model, folder / "100.parquet", folder / f"warm{rows}")
    before, start = most_memory(), time.perf_counter()
    store = clipkit.embed(model, folder / f"{rows}.parquet", folder / f"store{rows}")
    took = time.perf_counter() - start
    sys.stdout.write(
        f"{len(store):,} rows: {most_memory():.0f} MB at most ({before:.0f} MB after 100 rows),"
        f" {rows / took:.0f} rows/s\n"
    )


def table(folder: Path, rows: int) -> Path:
    """Write a table of so many rows."""
    path = folder / f"{rows}.parquet"
    lines: list[dict[str, object]] = []
    for row in range(rows):
        link = folder / f"link{row}.jpg"
        if not link.exists():
            link.hardlink_to(folder / f"{row % PICTURES}.jpg")
        told = {"image": link.name, "caption": f"a photo of {row}", "year": row % 90}
        lines.append({**told, "note": f"note {row}"})
    pq.write_table(pa.Table.from_pylist(lines), path)
    return path


def main() -> None:
    """Run each size in a process of its own."""
    if sys.argv[1:2] == ["--run"]:
        export(Path(sys.argv[2]), int(sys.argv[3]))
        return
    sizes = [int(word) for word in sys.argv[1:]] or [1_000, 100_000]
    with tempfile.TemporaryDirectory() as name:
        rng = np.random.default_rng(0)
        for number in range(PICTURES):
            pixels = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(Path(name) / f"{number}.jpg")
        for size in (100, *sizes):
            table(Path(name), size)
        for size in sizes:
            words = [sys.executable, "-m", "tests.benchmarks.export_memory", "--run", name]
            subprocess.run([*words, str(size)], check=True)


if __name__ == "__main__":
    main()
