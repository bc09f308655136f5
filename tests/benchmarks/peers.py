"""Peers that have a place of their own, which `make bench` makes, since they clash with clipkit.

`.venv/peers/clip-retrieval` is an environment with its own versions of what it needs; what it does
not have, such as torch, it takes from clipkit's. `.venv/peers/clip_benchmark` is the package alone,
beside clipkit's own libraries.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import ROOT

PEERS = ROOT / ".venv" / "peers"
CLIP_RETRIEVAL = str(PEERS / "clip-retrieval" / "bin" / "python")
CLIP_BENCHMARK = PEERS / "clip_benchmark"
ASK = "import importlib.metadata as m; print(m.version('clip-retrieval'), m.version('torch'))"


def clip_benchmark(name: str) -> Any:
    """Return one of CLIP_benchmark's modules of metrics.

    Raises:
        ImportError: it is not there.
    """
    if str(CLIP_BENCHMARK) not in sys.path:
        sys.path.append(str(CLIP_BENCHMARK))
    return importlib.import_module(f"clip_benchmark.metrics.{name}")


def peer_versions() -> dict[str, str]:
    """Return the versions of those that are there."""
    found = {}
    if Path(CLIP_RETRIEVAL).exists():
        done = subprocess.run(
            [CLIP_RETRIEVAL, "-c", ASK], capture_output=True, text=True, check=False
        )
        own, _, torch = done.stdout.strip().partition(" ")
        if own:
            found["clip-retrieval"] = f"{own} (with torch {torch})"
    for path in CLIP_BENCHMARK.glob("clip_benchmark-*.dist-info"):
        found["clip_benchmark"] = path.name.removesuffix(".dist-info").partition("-")[2]
    return found
