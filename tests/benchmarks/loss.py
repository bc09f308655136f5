"""The symmetric loss, forward and backward, beside open_clip's: in time and in memory.

    python -m tests.benchmarks.loss [BATCH ...] [--repeats 3] [--threads 2] [--dim 512]

Each measurement runs in a process of its own, in turn, so that its peak memory is its own;
open_clip is left out where its matrices would not fit in 8 GB. "10 % twice" is clipkit's where a
tenth of the captions occurs twice; "siglip" is clipkit's, which open_clip's is not compared with.
CPU seconds are of all threads: on a machine that others use as well, those of one thread tell more
than the clock. Values and gradients are compared first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.losses import ClipLoss, Positives, SigLipLoss

SIZES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
NAMES = ("open_clip", "clipkit", "10 % twice", "siglip")
OPEN_CLIP_MATRICES = 5  # of batch x batch, that it holds at once
MEMORY = 8 << 30

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make(name: str, batch: int) -> Callable[[Inputs], Tensor]:
    """Return one of the losses, for batches of one size."""
    if name == "open_clip":
        from open_clip.loss import ClipLoss as OpenClipLoss

        peer = OpenClipLoss()
        return lambda given: peer(*given[:3])
    keys = torch.arange(batch)
    text_keys = keys.clone()
    if name == "10 % twice":
        text_keys[: batch // 10] = text_keys[-(batch // 10) :]
    positives = Positives(keys, text_keys)
    loss = SigLipLoss() if name == "siglip" else ClipLoss()
    return lambda given: loss(*given, positives)


def inputs(batch: int, dim: int) -> Inputs:
    """Return features, of which images and texts are alike, a scale and a bias."""
    generator = torch.Generator().manual_seed(0)
    common, image, text = torch.randn(3, batch, dim, generator=generator)
    scale, bias = torch.tensor(30.0), torch.tensor(-10.0)
    sides = (normalize(common + side, dim=1) for side in (image, text))
    return tuple(x.requires_grad_() for x in (*sides, scale, bias))  # type: ignore[return-value]


def step(loss: Callable[[Inputs], Tensor], given: Inputs) -> tuple[Tensor, ...]:
    """Go forward and backward once; return the value and the gradients."""
    for x in given:
        x.grad = None
    value = loss(given)
    value.backward()
    return value.detach(), *(x.grad for x in given[:3] if x.grad is not None)


def memory(what: str) -> float:
    """Return a line of this process's status, in MB: VmRSS is held now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def measure(name: str, batch: int, dim: int) -> None:
    """Print seconds on the clock, CPU seconds and peak MB above what is there before."""
    step(make(name, 64), inputs(64, dim))
    given, loss = inputs(batch, dim), make(name, batch)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = memory("VmRSS")
    clock, cpu = time.perf_counter(), time.process_time()
    step(loss, given)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    sys.stdout.write(f"{clock} {cpu} {memory('VmHWM') - before}\n")


def in_a_process(name: str, batch: int, given: argparse.Namespace) -> list[float]:
    """Measure one of the losses in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.loss", str(batch), "--one", name]
    command += ["--threads", str(given.threads), "--dim", str(given.dim)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.split()]


def compare(dim: int) -> None:
    """Check that the work is equal."""
    given = inputs(512, dim)
    for mine, theirs in zip(
        *(step(make(name, 512), given) for name in ("clipkit", "open_clip")), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        measure(given.one, given.sizes[0], given.dim)
        return
    compare(given.dim)
    sys.stdout.write(
        f"dim {given.dim}, {given.threads} threads, medians of {given.repeats}\n"
        " batch  loss        seconds   ratio    CPU s   ratio   peak MB\n"
    )
    for batch in given.sizes:
        fits = OPEN_CLIP_MATRICES * 4 * batch**2 < MEMORY
        names = NAMES if fits else NAMES[1:]
        runs = [[in_a_process(name, batch, given) for name in names] for _ in range(given.repeats)]
        for at, name in enumerate(names):
            clock, cpu, peak = map(statistics.median, zip(*(run[at] for run in runs), strict=True))
            ratios = ["", ""]
            if fits:
                ratios = [
                    f"{statistics.median(run[at][which] / run[0][which] for run in runs):.2f}"
                    for which in (0, 1)
                ]
            sys.stdout.write(
                f"{batch:6}  {name:10} {clock:8.2f} {ratios[0]:>7}"
                f" {cpu:8.2f} {ratios[1]:>7} {peak:9.0f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
