"""A training step of ViT-B/32, all of which trains: clipkit's own loop beside open_clip's.

    python -m tests.benchmarks.train_step [--steps 20] [--batch 32] [--threads 2] [--duel NAME ...]

Both start from the same random weights, see the same pictures (noise) and captions of 10 to 20
words, and move by the same AdamW: `take_steps` of clipkit with precision "float32" or "auto",
`train_one_epoch` of open_clip with "fp32" or "amp_bf16". Two at a time, each in a process of its
own (5 GB), take one step after the other, in turn; the first is not counted. Losses are compared
after every step, and must be equal in float32. open_clip is given tensors that are ready; clipkit
normalises pixels and tokenises captions in its step.

CPU seconds are of all threads: on a machine that others use as well they tell more than the clock.
`--profile NAME` prints what one of them spends its steps on, by operation.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import open_clip
import torch
from open_clip_train.params import parse_args  # type: ignore[import-untyped]
from open_clip_train.scheduler import cosine_lr  # type: ignore[import-untyped]
from open_clip_train.train import train_one_epoch  # type: ignore[import-untyped]
from torch.profiler import ProfilerActivity, profile

from clipkit.data.dataset import Dataset, text_key
from clipkit.data.preprocess import normalize
from clipkit.losses import ClipLoss
from clipkit.models import load
from clipkit.signals import StopSignals
from clipkit.train.batches import PairBatch, PairBatches
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.course import Course, Scorings
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.feed import Feed
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.kept import Selection
from clipkit.train.loop import take_steps
from clipkit.train.objective import Objective
from clipkit.train.optim import OptimSettings, build_optimizer
from clipkit.train.processes import make_accelerator
from clipkit.train.run_log import RunFolder
from clipkit.train.step import StepObjective
from clipkit.train.tell import Teller
from clipkit.types import Preprocessing

ARCHITECTURE = "ViT-B-32"
CONTENDERS = {
    "open_clip float32": "fp32",
    "clipkit float32": "float32",
    "open_clip amp_bf16": "amp_bf16",
    "clipkit auto": "auto",
}
DUELS = {
    "float32": ("open_clip float32", "clipkit float32"),
    "auto": ("open_clip float32", "clipkit auto"),
    "bf16": ("open_clip amp_bf16", "clipkit auto"),
}
OPTIM = OptimSettings(lr=1e-4, weight_decay=0.2, warmup_steps=10, clip_norm=1.0)
OPEN_CLIP_IMAGES = Preprocessing(
    224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)

WORDS = (
    "a photo of two old brown dogs that run after the yellow ball on a wet beach in front of some"
    " small boats while people with umbrellas look at them from the wall near the red house"
).split()

PROFILED = 3
TOLERANCE = 1e-4

Made = tuple[torch.Tensor, list[str]]
Batch = TypeVar("Batch")


def pairs_of(step: int, size: int) -> Made:
    """Return pixels [size, 224, 224, 3] and captions, none of which occurs twice."""
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randint(0, 256, (size, 224, 224, 3), generator=generator).to(torch.uint8)
    captions = []
    for at in range(size):
        length = 10 + int(torch.randint(0, 11, (1,), generator=generator))
        order = torch.randperm(len(WORDS), generator=generator)
        captions.append(" ".join([*(WORDS[i] for i in order[: length - 1]), str(at)]))
    return pixels, captions


class Pace:
    """Has a step begin when a line comes in, and says what it took and came to.

    Args:
        lines: what comes in.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Wait for nothing yet."""
        self.lines = iter(lines)
        self.clock = self.cpu = 0.0

    def wait(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass a batch on for each line."""
        for batch, _ in zip(batches, self.lines, strict=False):
            self.clock, self.cpu = time.perf_counter(), time.process_time()
            yield batch

    def done(self, loss: float) -> None:
        """Tell about the step that has ended."""
        clock, cpu = time.perf_counter() - self.clock, time.process_time() - self.cpu
        sys.stdout.write(f"{clock} {cpu} {loss}\n")
        sys.stdout.flush()


class Batches(PairBatches):
    """Batches that are in memory; a step for each line."""

    def __init__(self, given: Sequence[PairBatch], pace: Pace) -> None:
        """Keep them."""
        self.given, self.pace, self.batch_size = given, pace, len(given[0])
        self.data, self.process_index, self.process_count = Dataset("noise", ()), 0, 1

    def __len__(self) -> int:
        """Return the steps of the one epoch."""
        return len(self.given)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[PairBatch]:
        """Yield them."""
        return self.pace.wait(self.given[done:])


class Paced(Course):
    """A course that tells about its steps and saves nothing."""

    pace: Pace

    def after_step(self, signal: int) -> None:
        """Tell about a step."""
        self.pace.done(math.nan if self.state.loss is None else self.state.loss)


def pair_batch(pixels: torch.Tensor, captions: list[str]) -> PairBatch:
    """Return a batch as the loop wants it."""
    rows = torch.arange(len(captions))
    keys = torch.tensor([text_key(caption) for caption in captions])
    return PairBatch(pixels, captions, rows, None, rows, keys)


def run_clipkit(precision: str, weights: str, made: list[Made], pace: Pace) -> None:
    """Train by `take_steps`, set up as `fit` does."""
    model = load(f"open_clip:{ARCHITECTURE}/{weights}?activation=gelu")
    accelerator = make_accelerator(precision, find_unused_parameters=False)
    pairs = Pairs(model, cached_images=False)
    model.train()
    wrapped, prepared = accelerator.prepare(pairs, build_optimizer(model, OPTIM))
    batches = Batches([pair_batch(*pair) for pair in made], pace)
    with tempfile.TemporaryDirectory() as folder, StopSignals() as stop:
        course = Paced(
            model,
            Feed(batches),
            prepared,
            steps=len(made),
            scorings=Scorings(()),
            selection=Selection(),
            settings=CheckpointSettings(),
            cache=FeatureCache(Path(folder) / "cache"),
            run=RunFolder(Path(folder) / "run"),
            stop=stop,
            identity=("noise", "random"),
        )
        course.pace = pace
        take_steps(
            course,
            GradCache(accelerator, pairs, wrapped, micro_batch_size=None),
            StepObjective(Objective(ClipLoss())),
            prepared,
            optim=OPTIM,
            seed=0,
            class_directions=None,
            tell=Teller(course, duplicates="positive"),
        )


def open_clip_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """Make the optimiser as `open_clip_train.main` does."""
    parts: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        plain = any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
        parts[parameter.ndim < 2 or plain].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parts[True], "weight_decay": 0.0},
            {"params": parts[False], "weight_decay": OPTIM.weight_decay},
        ],
        lr=OPTIM.lr,
        betas=(OPTIM.beta1, OPTIM.beta2),
        eps=OPTIM.eps,
    )


class OpenClipData:
    """What `train_one_epoch` wants to know of data, and of who hears what a step came to."""

    def __init__(self, made: list[Made], pace: Pace) -> None:
        """Prepare tensors."""
        tokenizer, settings = open_clip.get_tokenizer(ARCHITECTURE), OPEN_CLIP_IMAGES
        self.batches = [
            (normalize(pixels, settings).contiguous(), tokenizer(captions))
            for pixels, captions in made
        ]
        self.pace, self.dataloader = pace, self
        self.num_batches, self.num_samples = len(made), len(made) * len(made[0][1])

    def set_epoch(self, epoch: int) -> None:
        """There is one."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches."""
        return self.pace.wait(self.batches)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Hear what is meant for tensorboard."""
        if name == "train/loss":
            self.pace.done(value)


def run_open_clip(precision: str, weights: str, made: list[Made], pace: Pace) -> None:
    """Train by `train_one_epoch`, set up as `open_clip_train.main` does."""
    model = open_clip.create_model(ARCHITECTURE, pretrained=weights, output_dict=True)
    told = f"--model {ARCHITECTURE} --precision {precision} --batch-size {len(made[0][1])}"
    told += f" --device cpu --log-every-n-steps 1 --grad-clip-norm {OPTIM.clip_norm}"
    args = parse_args(told.split())
    args.distill, args.rank, args.world_size, args.wandb = False, 0, 1, False
    optimizer, data = open_clip_optimizer(model), OpenClipData(made, pace)
    scheduler = cosine_lr(optimizer, OPTIM.lr, OPTIM.warmup_steps, len(made))
    loss = open_clip.ClipLoss()
    train_one_epoch(
        model, {"train": data}, loss, 0, optimizer, None, scheduler, None, args, tb_writer=data
    )


def run_one(name: str, weights: str, given: argparse.Namespace) -> None:
    """Train in this process: a step for each line that comes in, or a few under the profiler."""
    torch.set_num_threads(given.threads)
    run = run_open_clip if name.startswith("open_clip") else run_clipkit
    if not given.profile:
        made = [pairs_of(step, given.batch) for step in range(given.steps + 1)]
        run(CONTENDERS[name], weights, made, Pace(sys.stdin))
        return
    made = [pairs_of(step, given.batch) for step in range(PROFILED)]
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run(CONTENDERS[name], weights, made, Pace(repeat("")))
    table = profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
    sys.stdout.write(f"{name}, {PROFILED} steps\n{table}\n")


class Contender:
    """A process that takes a step when it is told to."""

    def __init__(self, name: str, weights: str, given: argparse.Namespace) -> None:
        """Start it."""
        command = [sys.executable, "-m", "tests.benchmarks.train_step", "--one", name]
        for option in ("steps", "batch", "threads"):
            command += [f"--{option}", str(getattr(given, option))]
        self.name = name
        self.process = subprocess.Popen(
            [*command, "--weights", weights],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(given.threads)},
        )
        self.steps: list[tuple[float, float, float]] = []

    def step(self) -> None:
        """Have it take a step, and keep seconds on the clock, CPU seconds and the loss."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        clock, cpu, loss = map(float, self.process.stdout.readline().split())
        self.steps.append((clock, cpu, loss))

    def median(self, what: int) -> float:
        """Return the median of all steps but the first."""
        return statistics.median(step[what] for step in self.steps[1:])


def race(names: Sequence[str], weights: str, given: argparse.Namespace) -> None:
    """Have two train in turn, and print what they took, and the ratios of their steps."""
    peer, ours = runs = [Contender(name, weights, given) for name in names]
    try:
        for _ in range(given.steps + 1):
            for run in runs:
                run.step()
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    columns, steps = [], list(zip(peer.steps, ours.steps, strict=True))
    for what in (0, 1):
        ratio = statistics.median(a[what] / b[what] for a, b in steps[1:])
        columns.append(f"{peer.median(what):9.2f} {ours.median(what):8.2f} {ratio:6.2f}")
    difference = max(abs(a[2] - b[2]) for a, b in steps)
    sys.stdout.write(
        f"{peer.name:18} {ours.name:18} {' '.join(columns)}   {difference:.1e},"
        f" {steps[0][1][2]:.2f} to {steps[-1][1][2]:.2f}\n"
    )
    sys.stdout.flush()
    if names == DUELS["float32"] and difference > TOLERANCE:
        raise SystemExit(f"the work is not equal: losses differ by {difference:.1e}")


def main() -> None:
    """Draw weights, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--duel", nargs="+", choices=DUELS, default=list(DUELS))
    parser.add_argument("--profile", choices=CONTENDERS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.one, given.weights, given)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.pt"
        torch.manual_seed(0)
        torch.save(open_clip.create_model(ARCHITECTURE).state_dict(), weights)
        if given.profile:
            run_one(given.profile, weights, given)
            return
        sys.stdout.write(
            f"{ARCHITECTURE}, batch {given.batch}, {given.threads} threads, medians of"
            f" {given.steps} steps\n"
            "                                            seconds   ratio"
            "            CPU s   ratio   losses\n"
        )
        for name in given.duel:
            race(DUELS[name], weights, given)


if __name__ == "__main__":
    main()
