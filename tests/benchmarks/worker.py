"""The process of one contender: it sets itself up, then does its work whenever it is told to.

    python -m tests.benchmarks.worker MODULE FUNCTION ARGUMENTS ANSWER

FUNCTION gets ARGUMENTS (a JSON object) as keywords and gives a `Work`. Each line that comes in is
answered by a line of JSON with what the work took; "keep" also writes what it came to into the file
ANSWER (.npz). What libraries print goes to stderr. Only the standard library is imported here, and
numpy where an answer is kept: a peer may have a Python of its own.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np

    Answer = np.ndarray | Mapping[str, Any] | Sequence[float] | float | None

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, slots=True)
class Work:
    """What a contender does.

    Attributes:
        go: does the work once; this is what is timed. It returns what it came to: an array, several
            by name, a number, or nothing.
        before: puts things in order before each time, untimed.
        flops: floating-point operations that the work needs, where they were counted.
        loop: in place of `go`, a loop of its own, which asks `Pace` for when to work.
    """

    go: "Callable[[], Answer] | None" = None
    before: Callable[[], None] | None = None
    flops: float | None = None
    loop: "Callable[[Pace], None] | None" = None


class Pace:
    """Tells when to work once, times it, and answers.

    Args:
        lines: one for each time.
        replies: where answers go.
        file: for what the work came to.
    """

    def __init__(self, lines: Iterable[str], replies: TextIO, file: str) -> None:
        """Wait for nothing yet."""
        self.lines, self.replies, self.file = iter(lines), replies, file
        self.keep = False
        self.clock = self.cpu = 0.0

    def begin(self, before: Callable[[], None] | None = None) -> bool:
        """Wait to be told, put things in order, and start the clock; False when it is over."""
        line = next(self.lines, None)
        if line is None:
            return False
        self.keep = line.strip() == "keep"
        if before is not None:
            before()
        gc.collect()
        gpu = cuda()
        if gpu is not None:
            gpu.reset_peak_memory_stats()
            gpu.synchronize()
        self.clock, self.cpu = time.perf_counter(), cpu_seconds()
        return True

    def done(self, made: "Answer") -> None:
        """Stop the clock and tell what it took."""
        gpu = cuda()
        if gpu is not None:
            gpu.synchronize()
        clock, cpu = time.perf_counter() - self.clock, cpu_seconds() - self.cpu
        if self.keep:
            save(self.file, made)
        most = gpu.max_memory_allocated() / 2**20 if gpu is not None else None
        tell(self.replies, {"seconds": clock, "cpu": cpu, "gpu_mb": most})


def main(module: str, function: str, arguments: str, answer: str) -> None:
    """Set up, and work."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        make = getattr(importlib.import_module(module), function)
        work: Work = make(**json.loads(arguments))
        tell(replies, {"flops": work.flops})
        pace = Pace(sys.stdin, replies, answer)
        if work.loop is not None:
            work.loop(pace)
        while work.go is not None and pace.begin(work.before):
            pace.done(work.go())
    except ImportError as error:
        tell(replies, {"problem": f"not installed: {error}"})
    except Exception as error:
        traceback.print_exc()
        tell(replies, {"problem": f"{type(error).__name__}: {str(error).strip()[:300]}"})


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, and of those that it started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def cuda() -> Any:
    """Return torch.cuda where it is in use."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def save(path: str, made: "Answer") -> None:
    """Write what the work came to."""
    import numpy as np

    named = made if isinstance(made, Mapping) else {} if made is None else {"answer": made}
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in named.items()}
    np.savez(path, **arrays)


def tell(replies: TextIO, what: Mapping[str, object]) -> None:
    """Answer with a line."""
    replies.write(json.dumps(what) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:5])
