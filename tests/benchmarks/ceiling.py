"""The machine's own ceiling: how fast it multiplies matrices, in float32 and in bfloat16.

It is measured before all jobs and after them; shares are of the better of the two.
"""

import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.contenders import Contender, Running
from tests.benchmarks.worker import Work

SIDES = {"cpu": 3072, "cuda": 8192}
SECONDS = 2.0


def products() -> Work:
    """Multiply on each device, for some seconds each."""
    import numpy as np
    import torch

    def operations_a_second(device: str, dtype: torch.dtype) -> float:
        side = SIDES[device]
        a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
        wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else int
        best, begun = 0.0, time.perf_counter()
        while time.perf_counter() - begun < SECONDS:
            wait()
            start = time.perf_counter()
            a @ b
            wait()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
        return best

    def go() -> dict[str, np.ndarray]:
        devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
        kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
        return {
            f"{device} {name}": np.asarray(operations_a_second(device, dtype))
            for device in devices
            for name, dtype in kinds.items()
        }

    return Work(go)


def measure(folder: Path) -> dict[str, float]:
    """Return operations a second, by device and precision, such as "cpu float32"."""
    folder.mkdir(parents=True, exist_ok=True)
    contender = Contender(
        "ceiling",
        "ceiling:products",
        imports=("torch",),
        device="cuda",  # where there is one
    )
    running = Running(contender, folder)
    try:
        running.go(keep=True)
        return {name: float(value) for name, value in running.answer().items()}
    finally:
        running.close()
