"""`make bench`: clipkit beside its peers on the same work, in one run.

    python -m tests.benchmarks [--quick | --whole] [--only JOB ...] [--out benchmarks.json]

Each job is a module of this folder; the files are written anew after each of them. Modules that are
no job (few_shot, frozen_tower, learning, search, text_length) have clipkit beside itself, by hand.
`--quick` has small sizes, one round and fewer peers: it shows that all runs. With `--whole` sizes
are those that people have (a thousand classes, a million rows), whatever they take: hours.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import ceiling
from tests.benchmarks.harness import Bench, Scale
from tests.benchmarks.peers import peer_versions
from tests.benchmarks.race import Row
from tests.benchmarks.table import Results

JOBS = (
    "start",
    "encode_images",
    "encode_captions",
    "zero_shot_head",
    "classify",
    "export",
    "train_step",
    "loss",
    "loading",
    "retrieval",
    "growth",
)


def tell(rows: Sequence[Row], took: float) -> None:
    """Print what a race came to, and its seconds with all that is not timed."""
    sys.stdout.write(f"{rows[0].job} ({took:.0f} s)\n" if rows else "")
    for row in rows:
        seconds = " ".join(f"{one:.3g}" for one in row.seconds)
        ratios = " ".join(f"{one:.2f}" for one in row.ratios)
        sys.stdout.write(
            f"  {row.who}: {row.problem or f'{seconds} s'}"
            f"{f'; {ratios} times {row.against}' if ratios else ''}"
            f"{f'; {row.agreement}' if row.agreement else ''}\n"
        )
    sys.stdout.flush()


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", dest="scale", action="store_const", const="quick")
    sizes.add_argument("--whole", dest="scale", action="store_const", const="whole")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=JOBS, metavar="JOB")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # imports are measured as they are elsewhere
    scale: Scale = given.scale or "usual"
    results = Results(scale, peers=peer_versions())
    with tempfile.TemporaryDirectory() as name:
        results.ceilings.append(ceiling.measure(Path(name) / "ceiling"))
        devices = ("cpu", *["cuda"] * any(one.startswith("cuda") for one in results.ceilings[0]))
        bench = Bench(Path(name), scale, devices, tell)
        bench.rows = results.rows
        for job in given.only:
            begun = time.perf_counter()
            try:
                importlib.import_module(f"tests.benchmarks.{job}").run(bench)
            except Exception as error:
                results.problems[job] = f"{type(error).__name__}: {error}"
                sys.stdout.write(f"{job}: {results.problems[job]}\n")
            results.took[job] = time.perf_counter() - begun
            results.write(given.out)
        results.ceilings.append(ceiling.measure(Path(name) / "ceiling"))
    results.write(given.out)
    spent = ", ".join(f"{job} {seconds:.0f}" for job, seconds in results.took.items())
    sys.stdout.write(f"seconds: {spent}; written: {given.out}, {given.out.with_suffix('.md')}\n")


if __name__ == "__main__":
    main()
