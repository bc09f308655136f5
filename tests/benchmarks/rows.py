"""From ten thousand rows to ten million: time to open a table, and memory to train on it.

    python -m tests.benchmarks.rows [ROWS ...]

Each size runs in a process of its own, for parquet and for JSON lines: the table is opened (the
first time, with nothing cached), and a tiny model is trained on its first 32,000 rows.
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
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

if TYPE_CHECKING:
    from clipkit.models.dual_encoder import DualEncoder

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PICTURES, LINKS, PIECE = 100, "abcd", 250_000
BATCH, BATCHES = 32, 1_000


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


def memory() -> dict[str, int]:
    """Return the resident memory of this process in MB: all of it, and without mapped files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        words[0]: int(words[1]) >> 10 for words in lines if words[0].startswith(("VmRSS", "Rss"))
    }
    return {"all": found["VmRSS:"], "own": found["RssAnon:"]}


def tiny_model() -> "DualEncoder":
    """Make a model so small that what is measured is the reading of rows."""
    from transformers import AutoTokenizer

    from clipkit.models.paired_towers import TowersSpec, build_towers
    from clipkit.models.starter import TEXT_WEIGHTS
    from clipkit.models.tokenizers import TransformersTokenizer
    from clipkit.types import Preprocessing

    tokenizer = AutoTokenizer.from_pretrained(TEXT_WEIGHTS.locate().parent)
    text = {
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
    }
    half = (0.5, 0.5, 0.5)
    return build_towers(
        TowersSpec("test_resnet", text, dim=32),
        tokenizer=TransformersTokenizer(tokenizer, 32),
        preprocessing=Preprocessing(size=64, mean=half, std=half),
    )


def measure(path: Path) -> None:
    """Open a table and train on its first batches, in this process."""
    import torch

    from clipkit.data import load_data
    from clipkit.losses import ClipLoss, Positives
    from clipkit.train.batches import BatchSettings, PairBatches
    from clipkit.train.feature_cache import FeatureCache

    torch.set_num_threads(1)
    model, loss = tiny_model().train(), ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters())
    before = memory()
    began = time.perf_counter()
    data = load_data(path)
    opened = time.perf_counter() - began
    pairs = PairBatches(
        model, data, FeatureCache(), BatchSettings(batch_size=BATCH, augment=True), seed=0
    )
    levels = []
    for batch in islice(pairs.epoch(0), BATCHES):
        (part,) = batch.parts(model, None)
        pixels, tokens = part.on_device(model)
        if not isinstance(tokens, dict):
            raise TypeError("captions came as features")
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
        positives = Positives(batch.image_keys, batch.text_keys)
        optimizer.zero_grad()
        loss(images, texts, model.logit_scale, None, positives).backward()
        optimizer.step()
        levels.append(memory())
        if len(levels) == 1:
            first = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    moments = {
        "before": before,
        "at step 1": levels[0],
        f"at {len(levels) // 2:,}": levels[len(levels) // 2],
        f"at {len(levels):,}": levels[-1],
    }
    told = ", ".join(f"{level['all']} ({level['own']}) {when}" for when, level in moments.items())
    sys.stdout.write(
        f"{path.suffix[1:]:8} {len(data):>10,} rows: opened in {opened:5.1f} s, first step after"
        f" {first:5.1f} s; resident MB (without the libraries' files): {told}; peak {peak}\n"
    )
    sys.stdout.flush()


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
