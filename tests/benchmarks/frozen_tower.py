"""Epochs on a frozen image tower whose features are cached, beside encoding the pictures each time.

    python -m tests.benchmarks.frozen_tower [MODEL ...] [--rows 256] [--epochs 3] [--threads 2]

Both are `fit` on the same JPEGs (drawn here, 640 x 480) and captions, in float32 without
augmentation; the one that encodes is told that features are too many to be held. Projections train,
and in another pair of runs the text tower as well. The first cached epoch encodes; it is shown
apart, and the times of the others are medians. Losses are compared: they must be equal.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipkit.data import Dataset, load_data
from clipkit.losses import ClipLoss
from clipkit.losses.positives import Positives
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.train import batches
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.loop import fit
from clipkit.train.optim import OptimSettings
from clipkit.train.run_log import RunFolder

MODELS = ("starter", "open_clip:ViT-B-32@random")
BATCH = 64
TOLERANCE = 1e-3
WORDS = (
    "a photo of two old brown dogs that run after the yellow ball on a wet beach in front of some"
    " small boats while people with umbrellas look at them from the wall near the red house"
).split()


class Clock(nn.Module):
    """The loss, which notes when it is asked for and what it gives."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__()
        self.loss = ClipLoss()
        self.times: list[tuple[float, float]] = []
        self.values: list[float] = []

    def forward(
        self, images: Tensor, texts: Tensor, scale: Tensor, bias: None, positives: Positives
    ) -> Tensor:
        """Return the loss."""
        self.times.append((time.perf_counter(), time.process_time()))
        value: Tensor = self.loss(images, texts, scale, bias, positives)
        self.values.append(value.item())
        return value


def draw(folder: Path, rows: int) -> Dataset:
    """Draw pictures, and list them with captions of 10 to 20 words."""
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for row in range(rows):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        name = f"{row}.jpg"
        Image.fromarray(small).resize((640, 480)).save(folder / name)
        words = rng.permutation(WORDS)[: rng.integers(9, 20)]
        lines.append(f"{name},{' '.join(words)} {row}")
    table = folder / "pictures.csv"
    table.write_text("\n".join(lines) + "\n")
    return load_data(table)


def train(model: DualEncoder, data: Dataset, folder: Path, *, cached: bool, epochs: int) -> Clock:
    """Train; the loss has kept the time."""
    clock = Clock()
    clock.times.append((time.perf_counter(), time.process_time()))
    held, batches.CACHED_ROWS = batches.CACHED_ROWS, batches.CACHED_ROWS if cached else 0
    run = RunFolder(folder / "run", restart=True)
    try:
        fit(
            model,
            data,
            loss=clock,
            optim=OptimSettings(lr=1e-4),
            batches=batches.BatchSettings(batch_size=BATCH),
            epochs=epochs,
            seed=0,
            scorings=(),
            cache=FeatureCache(folder / "cache"),
            run=run,
            precision="float32",
        )
    finally:
        run.close()
        batches.CACHED_ROWS = held
    return clock


def epoch_seconds(clock: Clock, steps: int) -> tuple[list[float], list[float]]:
    """Return seconds on the clock and CPU seconds of each epoch but the last.

    An epoch lasts from its first step's loss to that of the next one; the first, from the start.
    """
    marks = [clock.times[0], *clock.times[1 + steps :: steps]]
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    return [wall for wall, _ in spans], [cpu for _, cpu in spans]


def measure(name: str, what: str, data: Dataset, given: argparse.Namespace) -> None:
    """Train with the cache and without, and print a line."""
    steps = -(-len(data) // BATCH)
    clocks = {}
    for cached in (False, True):
        torch.manual_seed(0)
        model = load(name)
        set_trainable(model, what)
        with tempfile.TemporaryDirectory() as folder:
            if not cached and what == "projections":  # new ones are fitted to cached features
                train(model, data, Path(folder), cached=True, epochs=0)
            clocks[cached] = train(
                model, data, Path(folder), cached=cached, epochs=given.epochs + 1
            )
    both = zip(clocks[False].values, clocks[True].values, strict=True)
    difference = max(abs(a - b) for a, b in both)
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: the work is not equal: losses differ by {difference:.1e}")
    live, cached_ = (epoch_seconds(clocks[how], steps) for how in (False, True))
    columns = []
    for which in (0, 1):
        slow, fast = (statistics.median(found[which][1:]) for found in (live, cached_))
        columns.append(f"{slow:8.2f} {cached_[which][0]:8.2f} {fast:8.3f} {slow / fast:6.0f}x")
    sys.stdout.write(f"{name:26} {what:12} {'  '.join(columns)}   {difference:.0e}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder), given.rows)
        sys.stdout.write(
            f"{given.rows} pictures, {given.threads} threads: an epoch that encodes, the first that"
            f" is cached, the others (medians), and the ratio of first and last\n"
            f"{'':26} {'trains':12} {'seconds':>33}  {'CPU seconds':>33}   losses\n"
        )
        for name in given.models:
            for what in ("projections", "text_tower"):
                measure(name, what, data, given)


if __name__ == "__main__":
    main()
