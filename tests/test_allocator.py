"""Memory that is freed stays, unless somebody says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from clipkit.allocator import SAID

FAULTS = """
import resource, torch
from clipkit.allocator import keep_freed_memory
kept = keep_freed_memory()

def passes(times):
    for _ in range(times):
        blocks = [torch.empty(10 << 20, dtype=torch.uint8).fill_(1) for _ in range(4)]
        del blocks

passes(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
passes(10)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**said: str) -> tuple[int, int]:
    """Return whether memory is kept, and the pages that were mapped for blocks of 400 MB in all."""
    quiet = {name: value for name, value in os.environ.items() if name not in SAID}
    words = [sys.executable, "-c", FAULTS]
    done = subprocess.run(words, env={**quiet, **said}, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return int(kept), int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_was_freed_is_used_again() -> None:
    kept, few = faults()
    left, many = faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert (kept, left) == (1, 0)
    assert many > 5 * few
