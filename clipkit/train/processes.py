"""Devices, processes and precision. The only import of accelerate."""

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from clipkit.errors import did_you_mean
from clipkit.launch import told_to_use_cpu
from clipkit.models.precision import wants_bf16


def make_accelerator(
    precision: str,
    *,
    find_unused_parameters: bool,
    trackers: Sequence[str] = (),
    folder: Path | None = None,
) -> Any:
    """Set up devices, processes and precision.

    Args:
        precision: "auto" (bf16 where the device computes in it, else float32), "bf16" or "float32".
        find_unused_parameters: allow parameters without a gradient when there are several
            processes.
        trackers: where Accelerate also reports to.
        folder: where trackers that write files put them.
    """
    mixed = "bf16" if wants_bf16(precision, _state().device) else "no"
    if AcceleratorState._shared_state:  # a run before this one in the same process
        AcceleratorState._reset_state(reset_partial_state=False)
    unused = DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)
    return Accelerator(
        cpu=_state().device.type == "cpu",
        mixed_precision=mixed,
        kwargs_handlers=[unused],
        log_with=list(trackers) or None,
        project_dir=folder,
    )


@contextmanager
def tracking(accelerator: Any) -> Iterator[None]:
    """Have trackers write what they hold back, however what is inside ends.

    `end_training` would also part the processes, which have a model to save and may train again.
    """
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def check_trackers(names: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of trackers, a sentence each."""
    known, there = sorted(LOGGER_TYPE_TO_CLASS), {str(name) for name in get_available_trackers()}
    problems = []
    for name in names:
        if name not in known:
            problems.append(f"trackers: {name!r} is unknown{did_you_mean(name, known)}")
        elif name not in there:
            problems.append(f"trackers: {name} is not installed: pip install {name}")
    return problems


def told_by_main(value: Any) -> Any:
    """Return what the main process has."""
    if _state().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def is_main_process() -> bool:
    """Say whether this process writes the files and speaks on the terminal."""
    return bool(_state().is_main_process)


def wait_for_everyone() -> None:
    """Return when every process is here."""
    _state().wait_for_everyone()


def _state() -> PartialState:
    """Return what Accelerate knows of the processes.

    Whoever asks first has to say whether they are to use the CPU: where a launcher was told so, and
    where there is nothing else. Several processes would each be alone without that.
    """
    alone = not torch.accelerator.is_available()
    state = PartialState(cpu=alone or told_to_use_cpu())
    _part_at_exit()
    return state


@cache
def _part_at_exit() -> None:
    """Have the end of the process part the processes, once.

    The threads of a group that is still there when Python ends can abort the process.
    """
    atexit.register(_part)


def _part() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
