"""A training step of ViT-B/32: clipkit's own loop beside open_clip's and sentence-transformers'.

All start from the same random weights, see the same pictures (noise) and captions of 10 to 20
words, and move by the same AdamW: `take_steps` of clipkit with precision "float32" or "auto",
`train_one_epoch` of open_clip with "fp32" or "amp_bf16", the trainer of sentence-transformers with
its ranking loss both ways. Full, with LoRA of rank 8 on all linear layers of the blocks (open_clip
has none), and with a batch of 128 in micro-batches of 32, exact in all three. Losses are compared,
step by step; sentence-transformers does not train the logit scale, which hardly shows in the first
steps. The peers are given tensors that are ready; clipkit normalises pixels and tokenises captions
in its step.
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_numbers
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import make_captions, model_folder
from tests.benchmarks.worker import Pace, Work

if TYPE_CHECKING:
    import torch

    from clipkit.models import DualEncoder
    from clipkit.train.batches import PairBatch
    from clipkit.train.optim import OptimSettings

ARCHITECTURE = "ViT-B-32"
MICRO, LARGE = 32, 128
STEPS = 64
RANK = 8
PROCESS_BYTES = 9 * 2**29
"""The memory of a process at most, with what it is slower without: the files in the page cache."""

HALF = ("auto", "bf16", "amp_bf16")
MAKERS = {
    "open_clip": "train_step_peers:by_open_clip",
    "sentence-transformers": "train_step_peers:by_sentence_transformers",
    "clipkit": "train_step:by_clipkit",
}
CONTENDERS = {
    "full": [
        "open_clip fp32",
        "open_clip amp_bf16",
        "sentence-transformers bf16",
        "clipkit float32",
        "clipkit auto",
    ],
    "lora": [
        "sentence-transformers fp32",
        "sentence-transformers bf16",
        "clipkit float32",
        "clipkit auto",
    ],
    "large": ["open_clip amp_bf16", "sentence-transformers bf16", "clipkit auto"],
    "every": [
        "open_clip fp32",
        "open_clip amp_bf16",
        "sentence-transformers fp32",
        "sentence-transformers bf16",
        "clipkit float32",
        "clipkit auto",
    ],
}

Made = tuple["torch.Tensor", list[str]]


def run(bench: Bench) -> None:
    """Race: full, with LoRA, and a large batch."""
    for device in bench.devices:
        on = libraries.on(device)
        race(bench, f"training step, batch {MICRO}{on}", device, MICRO, "full")
        if bench.scale == "quick":
            continue
        race(bench, f"training step, LoRA, batch {MICRO}{on}", device, MICRO, "lora")
        job = f"training step, batch {LARGE} by micro-batches of {MICRO}{on}"
        race(bench, job, device, LARGE, "large")


def race(bench: Bench, job: str, device: str, batch: int, kind: str) -> None:
    """Have them take steps in turn.

    They take some GB each: where the memory is short, each round has new processes, one at a time,
    which take two steps.
    """
    folder = model_folder(bench, ARCHITECTURE)
    given = {"device": device, "batch": batch, "lora": kind == "lora", "folder": folder}
    names = CONTENDERS["every" if bench.scale == "whole" and kind != "lora" else kind]
    if bench.scale == "quick":
        names = ["sentence-transformers bf16", "clipkit auto"]
    contenders = []
    for name in names:
        who, _, precision = name.rpartition(" ")
        told = {**given, "precision": precision, "architecture": ARCHITECTURE}
        counted = "bf16" if precision in HALF else "float32"
        made = Contender(
            name,
            MAKERS[who],
            told,
            imports=libraries.IMPORTS[who],
            precision=counted,
            device=device,
        )
        contenders.append(made)
    together = psutil.virtual_memory().available > PROCESS_BYTES * len(contenders)
    bench.race(
        job,
        contenders,
        amount=batch,
        unit="pairs",
        compare=same_numbers(1e-3),
        compare_bf16=same_numbers(0.05),
        rounds=bench.pick(1, 3 if together else 2, 5),
        goes=bench.pick(1, 1 if together else 2, 1),
        together=together,
        warm=batch == MICRO and bench.scale != "quick",
    )


def optim() -> "OptimSettings":
    """Return how parameters move, whoever moves them."""
    from clipkit.train.optim import OptimSettings

    return OptimSettings(lr=1e-4, weight_decay=0.2, warmup_steps=10, clip_norm=1.0)


def pairs_of(step: int, size: int) -> Made:
    """Return pixels [size, 224, 224, 3] and captions, none of which occurs twice."""
    import torch

    generator = torch.Generator().manual_seed(step)
    pixels = torch.randint(0, 256, (size, 224, 224, 3), generator=generator).to(torch.uint8)
    return pixels, make_captions(size, seed=step)


def by_clipkit(batch: int, lora: bool, **which: str) -> Work:
    """`take_steps`, set up as `fit` does."""
    from clipkit.losses import ClipLoss
    from clipkit.train.grad_cache import GradCache, Pairs
    from clipkit.train.loop import take_steps
    from clipkit.train.objective import Objective
    from clipkit.train.optim import build_optimizer
    from clipkit.train.processes import make_accelerator
    from clipkit.train.step import StepObjective
    from clipkit.train.tell import Teller

    model = libraries.clipkit(**{**which, "precision": "float32"})
    flops = step_flops(model, batch) if not lora else None
    if lora:
        from clipkit.models.lora import add_lora

        model.requires_grad_(False)
        add_lora(model, rank=RANK, alpha=2 * RANK)
    settings = optim()
    accelerator = make_accelerator(which["precision"], find_unused_parameters=False)
    pairs = Pairs(model, cached_images=False)
    model.train()
    wrapped, prepared = accelerator.prepare(pairs, build_optimizer(model, settings))
    micro = MICRO if batch > MICRO else None

    def loop(pace: Pace) -> None:
        with tempfile.TemporaryDirectory() as folder:
            course, stop = paced_course(model, prepared, batch, pace, Path(folder))
            with stop:
                take_steps(
                    course,
                    GradCache(accelerator, pairs, wrapped, micro_batch_size=micro),
                    StepObjective(Objective(ClipLoss())),
                    prepared,
                    optim=settings,
                    seed=0,
                    class_directions=None,
                    tell=Teller(course, duplicates="positive"),
                )

    return Work(loop=loop, flops=flops)


def step_flops(model: "DualEncoder", batch: int) -> float:
    """Return the operations of a step: forward, and twice as many backward."""
    texts = make_captions(batch)
    return 3 * (libraries.image_flops(model) * batch + libraries.text_flops(model, texts))


def paced_course(
    model: "DualEncoder", optimizer: Any, batch: int, pace: Pace, folder: Path
) -> tuple[Any, Any]:
    """Return a course whose batches come when it is told so and that saves nothing; its signals."""
    from clipkit.data.dataset import Dataset
    from clipkit.signals import StopSignals
    from clipkit.train.batches import PairBatches
    from clipkit.train.checkpoint import CheckpointSettings
    from clipkit.train.course import Course, Scorings
    from clipkit.train.feature_cache import FeatureCache
    from clipkit.train.feed import Feed
    from clipkit.train.kept import Selection
    from clipkit.train.run_log import RunFolder

    losses: list[float] = []

    class Batches(PairBatches):
        def __init__(self) -> None:
            self.batch_size = batch
            self.data, self.process_index, self.process_count = Dataset("noise", ()), 0, 1

        def __len__(self) -> int:
            return STEPS

        def epoch(self, epoch: int, done: int = 0) -> Iterator["PairBatch"]:
            for step in range(done, STEPS):
                made = pair_batch(*pairs_of(step, batch))
                if not pace.begin():
                    raise SystemExit(0)  # the loop would ask again
                yield made

    class Paced(Course):
        def after_step(self, signal: int) -> None:
            losses.append(math.nan if self.state.loss is None else self.state.loss)
            pace.done(list(losses))

    stop = StopSignals()
    course = Paced(
        model,
        Feed(Batches()),
        optimizer,
        steps=STEPS,
        scorings=Scorings(()),
        selection=Selection(),
        settings=CheckpointSettings(),
        cache=FeatureCache(folder / "cache"),
        run=RunFolder(folder / "run"),
        stop=stop,
        identity=("noise", "random"),
    )
    return course, stop


def pair_batch(pixels: "torch.Tensor", captions: list[str]) -> "PairBatch":
    """Return a batch as the loop wants it."""
    import torch

    from clipkit.data.dataset import text_key
    from clipkit.train.batches import PairBatch

    rows = torch.arange(len(captions))
    keys = torch.tensor([text_key(caption) for caption in captions])
    return PairBatch(pixels, captions, rows, None, rows, keys)
