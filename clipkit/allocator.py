"""Memory that is freed and needed again at once."""

import ctypes
import os
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # what mallopt(3) calls M_TRIM_…, M_MMAP_THRESHOLD
KEPT = 256 << 20
"""Bytes at the end of the heap that stay with the process."""
FROM_HEAP = (64 << 20, 32 << 20)
"""What is not larger comes from the heap; the second value is for a libc that refuses the first."""

SAID = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which somebody says how malloc shall be; then it stays so."""


@cache
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep some memory that was freed, from now on, in the whole process.

    A pass through a model on a CPU frees some MB after each layer and asks for as many. By default
    they go back to the system in between, which must map and clear each page again: some 40,000 for
    16 pictures by a ViT-B/32 in float32, which is a twentieth of the time.

    Returns:
        Whether it does so: not where one of `SAID` is set, nor with another malloc.
    """
    if any(os.environ.get(name) for name in SAID) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_TRIM_THRESHOLD, KEPT):
        return False
    return any(bool(mallopt(_MMAP_THRESHOLD, size)) for size in FROM_HEAP)
