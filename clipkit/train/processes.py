"""Devices, processes and precision. The only import of accelerate."""

from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs


def make_accelerator(precision: str, *, find_unused_parameters: bool) -> Any:
    """Set up devices, processes and precision.

    Args:
        precision: "auto" (bf16 on a GPU that has it, else float32), "bf16" or "float32".
        find_unused_parameters: allow parameters without a gradient when there are several
            processes.
    """
    if precision == "auto":
        mixed = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    else:
        mixed = "bf16" if precision == "bf16" else "no"
    if AcceleratorState._shared_state:  # a run before this one in the same process
        AcceleratorState._reset_state(reset_partial_state=False)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)]
    return Accelerator(mixed_precision=mixed, kwargs_handlers=handlers)


def is_main_process() -> bool:
    """Say whether this process writes the files and speaks on the terminal."""
    return bool(PartialState().is_main_process)


def wait_for_everyone() -> None:
    """Return when every process is here."""
    PartialState().wait_for_everyone()
