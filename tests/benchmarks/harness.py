"""Contenders that do the same work in turn, each in a process of its own, and what they took.

A job is a module of this folder with a function `run(bench)`, which has contenders race. What they
come to is compared before their times are: one whose answer differs has no ratio. One that fails,
or is not installed, has a row that says so.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from tests.benchmarks.compare import Answer, Compare

ROOT = Path(__file__).parents[2]
SECONDS_AT_MOST = 900
"""What no single go may take."""
ENOUGH = 100
"""Seconds of a race, but for the sizes that people have, after which no further round begins."""

Scale = Literal["quick", "usual", "whole"]


@dataclass(frozen=True, slots=True)
class Contender:
    """Who works.

    Attributes:
        who: name in the table; those that begin with "clipkit" are no peers.
        function: "module:function" below this folder, which gives a `Work`, see `worker.py`.
        given: its keywords.
        command: in place of a function, a command line whose whole run is the work; where it prints
            a JSON list or object last, that is its answer.
        precision: "float32" or "bf16": which ceiling counts, and which peers it is compared with.
        python: an interpreter of its own.
        device: "cpu" or "cuda".
    """

    who: str
    function: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    precision: str = "float32"
    python: str = sys.executable
    device: str = "cpu"

    @property
    def is_peer(self) -> bool:
        """Whether it is not clipkit."""
        return not self.who.startswith("clipkit")

    @property
    def environment(self) -> dict[str, str]:
        """What its process sees: on the CPU no GPU, which some libraries would take unasked."""
        hidden = {} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        return {"HF_HUB_OFFLINE": "1", **os.environ, **hidden}


@dataclass(slots=True)
class Row:
    """What one contender took in one race.

    Attributes:
        job: what the work is.
        who: the contender.
        device: where it ran.
        precision: of its products.
        is_peer: whether it is not clipkit.
        amount: how many units one go gets through.
        unit: what they are, such as "images".
        seconds: on the clock, of each round.
        cpu: CPU seconds, of each round.
        memory_mb: the most that its processes held, together.
        above_mb: by how much that is more than what they held before.
        gpu_mb: the most that was allocated on the GPU.
        flops: operations that the work needs, where known.
        agreement: how its answer compares with that of the race's first contender.
        problem: why it has no times, or why they do not count.
        against: the best peer, which `ratios` are to.
        ratios: the best peer's seconds by its own, round by round.
        note: anything else.
    """

    job: str
    who: str
    device: str
    precision: str
    is_peer: bool
    amount: float
    unit: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory_mb: float | None = None
    above_mb: float | None = None
    gpu_mb: float | None = None
    flops: float | None = None
    agreement: str = ""
    problem: str = ""
    against: str = ""
    ratios: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def counts(self) -> bool:
        """Whether it did the work."""
        return bool(self.seconds) and not self.problem


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of some values and their quartiles; of fewer than four, their ends."""
    middle = statistics.median(values)
    if len(values) < 4:
        return middle, min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def tree_memory(pid: int) -> float:
    """Return the MB that a process and all below it hold; what they share counts once."""
    total = 0.0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in tree:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup")
            if rollup.exists():
                total += int(rollup.read_text().partition("\nPss:")[2].split()[0]) / 1024
            else:
                total += process.memory_info().rss / 2**20
        except (psutil.Error, OSError, IndexError):  # it has ended
            continue
    return total


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
        """End."""
        self._end.set()
        self._thread.join()


class ContenderError(Exception):
    """A contender could not do its work."""


@contextmanager
def killed_after(process: "subprocess.Popen[str]", seconds: float) -> Iterator[threading.Event]:
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


def end(process: "subprocess.Popen[str]") -> None:
    """End a process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Running:
    """A contender's process that waits to be told to work.

    Args:
        contender: who.
        folder: for its answer and for what it prints.
        limit: seconds that one go may take.
    """

    def __init__(self, contender: Contender, folder: Path, limit: float = SECONDS_AT_MOST) -> None:
        """Start it; it sets itself up."""
        self.contender, self.limit = contender, limit
        self.answer_file, self.log = folder / "answer.npz", folder / "log"
        module, _, function = contender.function.partition(":")
        words = ["-m", "tests.benchmarks.worker", f"tests.benchmarks.{module}", function]
        if not Path(contender.python).exists():
            raise ContenderError("not installed: its environment is not there")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [contender.python, *words, json.dumps(contender.given), str(self.answer_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=contender.environment,
                start_new_session=True,
            )
        try:
            self.about = self._reply()
        except ContenderError:
            self.close()
            raise

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
        if self.process.stdin is None or self.process.poll() is not None:
            raise ContenderError("its process has ended")
        self.process.stdin.write("keep\n" if keep else "go\n")
        self.process.stdin.flush()
        return self._reply()

    def watched_go(self, every: float) -> dict[str, Any]:
        """Have it work once while its memory is watched, and keep its answer."""
        with Sampler(self.process.pid, every) as sampler:
            before = sampler.peak
            told = self.go(keep=True)
        return {**told, "memory_mb": sampler.peak, "above_mb": sampler.peak - before}

    def answer(self) -> Answer:
        """Return what its work came to."""
        with np.load(self.answer_file) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def close(self) -> None:
        """End it."""
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


class Race:
    """Some contenders and one work.

    Args:
        job: what the work is.
        contenders: the first of them gives the answer that others are compared with.
        amount: how many units one go gets through.
        unit: what they are.
        compare: what two answers must have in common; it says how alike they are, or raises.
        compare_bf16: likewise, for those that compute in bfloat16.
        rounds: times that each has its turn.
        goes: times that it works in one turn.
        warm: work once before, untimed; else a contender warms up on its own.
        together: processes stay from round to round; else each round has new ones, so that not all
            are held at once.
        limit: seconds that one go may take.
        enough: seconds after which no further round begins.
    """

    def __init__(
        self,
        job: str,
        contenders: Sequence[Contender],
        *,
        amount: float,
        unit: str,
        compare: Compare | None = None,
        compare_bf16: Compare | None = None,
        rounds: int = 3,
        goes: int = 1,
        warm: bool = True,
        together: bool = True,
        limit: float = SECONDS_AT_MOST,
        enough: float = math.inf,
    ) -> None:
        """Make a row for each."""
        self.contenders = contenders
        self.compare = {"float32": compare, "bf16": compare_bf16 or compare}
        self.rounds, self.goes, self.warm = rounds, goes, warm
        self.together, self.limit, self.enough = together, limit, enough
        self.rows = [
            Row(job, one.who, one.device, one.precision, one.is_peer, amount, unit)
            for one in contenders
        ]
        self.reference: Answer | None = None

    def run(self) -> list[Row]:
        """Have them work, in turn."""
        with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
            kept: dict[int, Running] = {}
            begun = time.perf_counter()
            for turn in range(self.rounds):
                if turn and time.perf_counter() - begun > self.enough:
                    break
                for at, contender in enumerate(self.contenders):
                    if self.rows[at].problem:
                        continue
                    folder = Path(name) / str(at)
                    folder.mkdir(exist_ok=True)
                    try:
                        if contender.command:
                            self._command(at, turn)
                        elif self.together:
                            if at not in kept:
                                kept[at] = Running(contender, folder, self.limit)
                                stack.callback(kept[at].close)
                            self._go(at, kept[at], turn, fresh=turn == 0)
                        else:
                            running = Running(contender, folder, self.limit)
                            try:
                                self._go(at, running, turn, fresh=True)
                            finally:
                                running.close()
                    except ContenderError as error:
                        self.rows[at].problem = str(error)
        share_flops(self.rows)
        compare_with_peers(self.rows)
        return self.rows

    def _command(self, at: int, turn: int) -> None:
        if turn == 0 and self.warm:
            run_command(self.contenders[at], self.limit)
        told, answer = run_command(self.contenders[at], self.limit)
        self._note(at, told)
        if turn == 0:
            self._check(at, answer)

    def _go(self, at: int, running: Running, turn: int, *, fresh: bool) -> None:
        row = self.rows[at]
        row.flops = running.about.get("flops") or row.flops
        left = self.goes
        if fresh and self.warm:
            self._note(at, {**running.watched_go(0.02), "seconds": None})
        elif turn == 0:
            self._note(at, running.watched_go(0.25))
            left -= 1
        for _ in range(left):
            self._note(at, running.go(keep=turn == 0))
        if turn == 0:
            self._check(at, running.answer())

    def _note(self, at: int, told: Mapping[str, Any]) -> None:
        """Keep what a go took."""
        row = self.rows[at]
        for name in ("memory_mb", "above_mb", "gpu_mb"):
            if told.get(name) is not None:
                setattr(row, name, max(getattr(row, name) or 0.0, told[name]))
        if told["seconds"] is not None:
            row.seconds.append(told["seconds"])
            row.cpu.append(told["cpu"])

    def _check(self, at: int, answer: Answer) -> None:
        """Compare an answer with that of the first contender that has one."""
        compare = self.compare[self.contenders[at].precision]
        if compare is None:
            return
        if self.reference is None:
            self.reference = answer
            return
        try:
            self.rows[at].agreement = compare(self.reference, answer)
        except ValueError as error:
            raise ContenderError(f"the work is not equal: {error}") from None


def share_flops(rows: Sequence[Row]) -> None:
    """The work needs what clipkit's first counted run needed, whoever does it."""
    known = [row.flops for row in rows if row.flops]
    for row in rows:
        row.flops = known[0] if known else None


def compare_with_peers(rows: Sequence[Row]) -> None:
    """Find each row's best peer: of float32, the best of float32; of bf16, the best of all."""
    for row in rows:
        peers = [one for one in rows if one.is_peer and one.counts]
        if row.precision == "float32":
            peers = [one for one in peers if one.precision == "float32"]
        if not row.counts or not peers:
            continue
        best = min(peers, key=lambda one: statistics.median(one.seconds) / one.amount)
        scale = row.amount / best.amount
        row.against = best.who
        row.ratios = [
            scale * theirs / ours for theirs, ours in zip(best.seconds, row.seconds, strict=False)
        ]


class Bench:
    """What a job needs to know and to call.

    Args:
        folder: for files, gone afterwards.
        scale: "quick", "usual", or "whole": the sizes that people have, whatever they take.
        devices: "cpu", and "cuda" where there is one.
        told: called with each race's rows.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale = "usual",
        devices: Sequence[str] = ("cpu",),
        told: Callable[[Sequence[Row]], None] | None = None,
    ) -> None:
        """Begin with no rows."""
        self.folder, self.scale, self.devices = folder, scale, devices
        self.told = told
        self.rows: list[Row] = []
        self._prepared: dict[str, Path] = {}

    def pick(self, quick: Any, usual: Any, whole: Any = None) -> Any:
        """Return one of three by the scale; `whole` is as `usual` where it is not given."""
        if self.scale == "quick":
            return quick
        return whole if self.scale == "whole" and whole is not None else usual

    def race(self, job: str, contenders: Sequence[Contender], **settings: Any) -> list[Row]:
        """Have contenders race, see `Race`; keep their rows and return them."""
        settings.setdefault("enough", self.pick(ENOUGH / 4, ENOUGH, math.inf))
        rows = Race(job, contenders, **settings).run()
        self.rows += rows
        if self.told is not None:
            self.told(rows)
        return rows

    def prepare(self, function: str, **given: Any) -> Path:
        """Have a function write files into a new folder, once, in a process of its own.

        Args:
            function: "module:function", which gets `folder` and what is given, and gives a `Work`.
            given: what JSON can say.

        Raises:
            ContenderError: it cannot.
        """
        key = json.dumps([function, given], sort_keys=True)
        if key not in self._prepared:
            folder = self.folder / f"prepared{len(self._prepared)}"
            folder.mkdir()
            with tempfile.TemporaryDirectory() as name:
                running = Running(
                    Contender("", function, {**given, "folder": str(folder)}), Path(name)
                )
                try:
                    running.go()
                finally:
                    running.close()
            self._prepared[key] = folder
        return self._prepared[key]
