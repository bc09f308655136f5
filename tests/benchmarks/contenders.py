"""A contender: a process of its own that works when told, and what it takes then."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.compare import Answer
from tests.benchmarks.nursery import Nursery

ROOT = Path(__file__).parents[2]
SECONDS_AT_MOST = 900
"""What no single go may take."""
MANY = 2**20
NURSERIES: dict[tuple[str, tuple[str, ...]], Nursery] = {}
"""By the interpreter, and by what they have imported; they end with this process."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who works.

    Attributes:
        who: name in the table; those that begin with "clipkit" are no peers.
        function: "module:function" below this folder, which gives a `Work`, see `worker.py`.
        given: its keywords.
        command: in place of a function, a command line whose whole run is the work; where it prints
            a JSON list or object last, that is its answer.
        imports: modules that its process has imported when it begins, to save their time; see
            `nursery`.
        precision: "float32" or "bf16": which ceiling counts, and which peers it is compared with.
        python: an interpreter of its own.
        device: "cpu" or "cuda".
    """

    who: str
    function: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    imports: tuple[str, ...] = ()
    precision: str = "float32"
    python: str = sys.executable
    device: str = "cpu"

    @property
    def is_peer(self) -> bool:
        """Whether it is not clipkit."""
        return not self.who.startswith("clipkit")

    @property
    def forks(self) -> bool:
        """Whether its process is forked from one that has its imports."""
        return bool(self.imports) and sys.platform == "linux"

    @property
    def environment(self) -> dict[str, str]:
        """What its process sees: on the CPU no GPU, which some libraries would take unasked."""
        hidden = {} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        return {"HF_HUB_OFFLINE": "1", **os.environ, **hidden}


def tree_memory(pid: int) -> float:
    """Return the MB that a process holds, and those that the processes below it have to themselves.

    What others hold too, such as the code of libraries, counts whole, so that it does not matter
    how many contenders there are.
    """
    try:
        root = psutil.Process(pid)
        total = float(root.memory_info().rss)
        below = root.children(recursive=True)
    except psutil.Error:
        return 0.0
    for process in below:
        try:
            total += process.memory_full_info().uss
        except (psutil.Error, OSError):  # it has ended
            continue
    return total / 2**20


class Sampler:
    """Looks how much memory a process's tree holds, again and again, in a thread.

    Args:
        pid: the process.
        every: seconds between two looks.

    Attributes:
        peak: the most so far, in MB.
    """

    def __init__(self, pid: int, every: float) -> None:
        """Look once."""
        self.pid, self.every = pid, every
        self.peak = tree_memory(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._end.wait(self.every):
            self.peak = max(self.peak, tree_memory(self.pid))

    def __enter__(self) -> "Sampler":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and end."""
        self._end.set()
        self._thread.join()
        self.peak = max(self.peak, tree_memory(self.pid))


class ContenderError(Exception):
    """A contender could not do its work."""


def nursery_of(contender: Contender) -> Nursery:
    """Return the process that has imported what a contender imports, or start it."""
    key = (contender.python, contender.imports)
    if key not in NURSERIES:
        NURSERIES[key] = Nursery(contender.python, contender.imports, str(ROOT))
        atexit.register(NURSERIES[key].close)
    return NURSERIES[key]


def warm_up(modules: Iterable[tuple[str, ...]]) -> bool:
    """Start the processes that import these, all at once; return when they have, and whether."""
    contenders = [Contender("", imports=names) for names in dict.fromkeys(modules)]
    if not all(one.forks for one in contenders):
        return False
    for nursery in [nursery_of(one) for one in contenders]:
        nursery.wait()
    return True


class Forked:
    """A worker of a nursery, as `subprocess.Popen` has those that it starts.

    Args:
        contender: who.
        words: of its command line.
        log: the descriptor that it writes its complaints to.

    Attributes:
        pid: of the process, which leads a group of its own.
        stdin: what it reads.
        stdout: what it writes.
    """

    def __init__(self, contender: Contender, words: Sequence[str], log: int) -> None:
        """Start it."""
        asked, told = os.pipe(), os.pipe()
        files = (asked[0], told[1], log)
        try:
            self.pid = nursery_of(contender).fork(words, contender.environment, files)
        except OSError as error:
            raise ContenderError(f"no process of its own: {error}") from None
        self.stdin, self.stdout = os.fdopen(asked[1], "w"), os.fdopen(told[0])
        os.close(asked[0])
        os.close(told[1])

    def poll(self) -> int | None:
        """Return something when it has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        """Return when it has ended, of which its end of the pipe tells."""
        while self.stdout.read(MANY):
            pass
        while self.poll() is None:
            time.sleep(0.01)
        return 0


Process = Forked | subprocess.Popen[str]


@contextmanager
def killed_after(process: "Process", seconds: float) -> Iterator[threading.Event]:
    """End a process and what it started, should it take too long."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        end(process)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def end(process: "Process") -> None:
    """End a process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Running:
    """A contender's process, which sets itself up, and then waits to be told to work.

    Args:
        contender: who.
        folder: for its answer and for what it prints.
        limit: seconds that one go may take.
    """

    def __init__(self, contender: Contender, folder: Path, limit: float = SECONDS_AT_MOST) -> None:
        """Start it."""
        self.contender, self.limit = contender, limit
        self.about: dict[str, Any] | None = None
        self.answer_file, self.log = folder / "answer.npz", folder / "log"
        module, _, function = contender.function.partition(":")
        if not Path(contender.python).exists():
            raise ContenderError("not installed: its environment is not there")
        given, answer = json.dumps(contender.given), str(self.answer_file)
        words = [f"tests.benchmarks.{module}", function, given, answer]
        with self.log.open("w") as log:
            if contender.forks:
                self.process: Process = Forked(contender, words, log.fileno())
            else:
                self.process = subprocess.Popen(
                    [contender.python, "-m", "tests.benchmarks.worker", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=ROOT,
                    env=contender.environment,
                    start_new_session=True,
                )

    def ready(self) -> dict[str, Any]:
        """Wait until it has set itself up; return what it tells of its work."""
        if self.about is None:
            self.about = self._reply()
        return self.about

    def _reply(self) -> dict[str, Any]:
        if self.process.stdout is None:
            raise ContenderError("it has no pipe")
        with killed_after(self.process, self.limit) as late:
            line = self.process.stdout.readline()
        if late.is_set():
            raise ContenderError(f"took more than {self.limit:.0f} s")
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise ContenderError(f"its process ended: {said[-1][:300] if said else 'silently'}")
        told: dict[str, Any] = json.loads(line)
        if "problem" in told:
            raise ContenderError(" ".join(told["problem"].split()))
        return told

    def go(self, keep: bool = False) -> dict[str, Any]:
        """Have it work once; `keep` writes its answer."""
        self.ready()
        if self.process.stdin is None or self.process.poll() is not None:
            raise ContenderError("its process has ended")
        self.process.stdin.write("keep\n" if keep else "go\n")
        self.process.stdin.flush()
        return self._reply()

    def watched_go(self, every: float) -> dict[str, Any]:
        """Have it work once while its memory is watched, and keep its answer."""
        self.ready()
        with Sampler(self.process.pid, every) as sampler:
            before = sampler.peak
            told = self.go(keep=True)
        return {**told, "memory_mb": sampler.peak, "above_mb": sampler.peak - before}

    def answer(self) -> Answer:
        """Return what its work came to."""
        with np.load(self.answer_file) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def close(self) -> None:
        """End it; once is enough."""
        if self.process.stdout is not None and self.process.stdout.closed:
            return
        end(self.process)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def run_command(contender: Contender, limit: float) -> tuple[dict[str, Any], Answer]:
    """Run a command from its start to its end; return what it took, and its answer."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            contender.command,
            stdout=out,
            stderr=err,
            text=True,
            cwd=ROOT,
            env=contender.environment,
            start_new_session=True,
        )
        with killed_after(process, limit):
            _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines, said = out.read().splitlines(), err.read().strip().splitlines()
    if process.returncode:
        raise ContenderError(said[-1][:300] if said else f"it ended with {process.returncode}")
    memory = used.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
    told = {"seconds": took, "cpu": used.ru_utime + used.ru_stime, "memory_mb": memory}
    if lines and lines[-1][:1] in ("[", "{"):
        found = json.loads(lines[-1])
        named = found if isinstance(found, dict) else {"answer": found}
        return told, {name: np.asarray(value) for name, value in named.items()}
    return told, {}
