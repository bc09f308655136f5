"""What a launcher told this process: which of how many it is.

`accelerate launch` and torchrun say it in the environment. Accelerate's own `PartialState` would
have the processes meet first, and so wait for one that was killed; whoever shares work by files has
no need to meet.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One of several processes that do one piece of work.

    Attributes:
        rank: its number; 0 is the main one, which finishes the work.
        count: of the processes.
        local_rank: its number among those of its machine: of its GPU.
        launch: names what they have in common, and no other processes at the same time.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    launch: str = ""


def told_by_launcher() -> Share:
    """Return what the environment says; a process that was started by hand is alone."""
    count = _number("WORLD_SIZE", 1)
    if count < 2:
        return Share()
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    launch = ":".join(os.environ.get(name, "") for name in names)
    return Share(_number("RANK", 0), count, _number("LOCAL_RANK", 0), launch)


def told_to_use_cpu() -> bool:
    """Say whether the launcher was told `--cpu`."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else otherwise
