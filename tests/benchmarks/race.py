"""Contenders that do the same work in turn: what each takes, if what it comes to is equal."""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.compare import Answer, Compare
from tests.benchmarks.contenders import (
    SECONDS_AT_MOST,
    Contender,
    ContenderError,
    Running,
    nursery_of,
    run_command,
)

BEHIND = 1.1
"""A peer that takes so many times the best peer's seconds is not the best; one round shows it."""


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
        left: whether it was so far behind in the first round that it had no other.
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
    left: bool = False
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


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of some ratios and where they lie with 95 % confidence.

    That is Student's interval on their logarithms: of two or three rounds the lowest and the
    highest would look much surer than they are. One alone has no interval.
    """
    from scipy.stats import t as student  # workers need it not, and would wait for it

    middle = statistics.median(ratios)
    if len(ratios) < 2:
        return middle, math.nan, math.nan
    logs = [math.log(ratio) for ratio in ratios]
    wide = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / len(logs) ** 0.5
    center = statistics.fmean(logs)
    return middle, min(middle, math.exp(center - wide)), max(middle, math.exp(center + wide))


class Race:
    """Some contenders and one work.

    Peers that are far behind in the first round have no other: the best of them is among the rest.

    Args:
        job: what the work is.
        contenders: the first of them gives the answer that others are compared with.
        amount: how many units one go gets through, or of each contender how many.
        unit: what they are.
        compare: what two answers must have in common; it says how alike they are, or raises.
        compare_bf16: likewise, for those that compute in bfloat16.
        rounds: times that each has its turn.
        goes: times that it works in one turn.
        warm: work once before, untimed; else a contender warms up on its own.
        together: processes stay from round to round; else each round has new ones, so that not all
            are held at once.
        limit: seconds that one go may take.
        enough: seconds of work, of all of them, after which no further round begins; what they take
            to start, most of it imports, does not count.
        at_least: rounds that there are in any case.
        once_from: seconds; who takes them for a go has one round, among those of the others.
    """

    def __init__(
        self,
        job: str,
        contenders: Sequence[Contender],
        *,
        amount: float | Sequence[float],
        unit: str,
        compare: Compare | None = None,
        compare_bf16: Compare | None = None,
        rounds: int = 3,
        goes: int = 1,
        warm: bool = True,
        together: bool = True,
        limit: float = SECONDS_AT_MOST,
        enough: float = math.inf,
        at_least: int = 1,
        once_from: float = math.inf,
    ) -> None:
        """Make a row for each."""
        self.contenders = contenders
        self.compare = {"float32": compare, "bf16": compare_bf16 or compare}
        self.rounds, self.goes, self.warm = rounds, goes, warm
        self.together, self.limit = together, limit
        self.enough, self.at_least, self.once_from = enough, at_least, once_from
        amounts = amount if isinstance(amount, Sequence) else [amount] * len(contenders)
        self.rows = [
            Row(job, one.who, one.device, one.precision, one.is_peer, units, unit)
            for one, units in zip(contenders, amounts, strict=True)
        ]
        self.reference: Answer | None = None
        self.worked = 0.0

    def run(self) -> list[Row]:
        """Have them work, in turn."""
        with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
            kept = self._start(Path(name), stack) if self.together else {}
            for turn in range(self.rounds):
                if turn >= self.at_least and self.worked > self.enough:
                    break
                for at, contender in enumerate(self.contenders):
                    if self._is_done(at):
                        continue
                    try:
                        if contender.command:
                            self._command(at, turn)
                        elif self.together:
                            self._go(at, kept[at], turn, fresh=turn == 0)
                        else:
                            running = Running(contender, self._folder(name, at), self.limit)
                            try:
                                self._go(at, running, turn, fresh=True)
                            finally:
                                running.close()
                    except ContenderError as error:
                        self.rows[at].problem = str(error)
                if turn == 0:
                    leave(self.rows)
                    for at in [at for at in kept if self.rows[at].left]:
                        kept.pop(at).close()  # its memory is the others'
        share_flops(self.rows)
        compare_with_peers(self.rows)
        return self.rows

    def _is_done(self, at: int) -> bool:
        """Whether a contender has no further round."""
        row = self.rows[at]
        return bool(row.problem) or row.left or max(row.seconds, default=0.0) >= self.once_from

    def _start(self, folder: Path, stack: ExitStack) -> dict[int, Running]:
        """Start all processes; return when all have set themselves up, which is mostly imports."""
        kept: dict[int, Running] = {}
        for contender in self.contenders:
            if contender.forks:
                nursery_of(contender)  # all of them import at once
        for at, contender in enumerate(self.contenders):
            if contender.command:
                continue
            try:
                kept[at] = running = Running(contender, self._folder(folder, at), self.limit)
                stack.callback(running.close)
            except ContenderError as error:
                self.rows[at].problem = str(error)
        for at, running in kept.items():
            try:
                running.ready()
            except ContenderError as error:
                self.rows[at].problem = str(error)
        return kept

    @staticmethod
    def _folder(parent: str | Path, at: int) -> Path:
        folder = Path(parent) / str(at)
        folder.mkdir(exist_ok=True)
        return folder

    def _command(self, at: int, turn: int) -> None:
        if turn == 0 and self.warm:
            run_command(self.contenders[at], self.limit)
        told, answer = run_command(self.contenders[at], self.limit)
        self.worked += told["seconds"]
        self._note(at, told)
        if turn == 0:
            self._check(at, answer)

    def _go(self, at: int, running: Running, turn: int, *, fresh: bool) -> None:
        row = self.rows[at]
        row.flops = running.ready().get("flops") or row.flops
        left = self.goes
        begun = time.perf_counter()
        if fresh and self.warm:
            self._note(at, {**running.watched_go(0.1), "seconds": None})
        elif turn == 0:
            self._note(at, running.watched_go(0.25))
            left -= 1
        for _ in range(left):
            self._note(at, running.go(keep=turn == 0))
        self.worked += time.perf_counter() - begun
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


def pace(row: Row) -> float:
    """Return the seconds that a row takes for a unit."""
    return statistics.median(row.seconds) / row.amount


def leave(rows: Sequence[Row]) -> None:
    """Have peers leave that are far behind: the float32 ones in float32, the others behind any."""
    peers = [row for row in rows if row.is_peer and row.counts]
    exact = [row for row in peers if row.precision == "float32"]
    for row in peers:
        rivals = exact if row.precision == "float32" else peers
        row.left = pace(row) > BEHIND * min(map(pace, rivals))


def share_flops(rows: Sequence[Row]) -> None:
    """The work needs what clipkit's first counted run needed, whoever does it."""
    known = [row.flops for row in rows if row.flops]
    for row in rows:
        row.flops = known[0] if known else None


def compare_with_peers(rows: Sequence[Row]) -> None:
    """Find each row's best peer: of float32, the best of float32; of bf16, the best of all."""
    for row in rows:
        peers = [one for one in rows if one.is_peer and one.counts and not one.left]
        if row.precision == "float32":
            peers = [one for one in peers if one.precision == "float32"]
        if not row.counts or not peers:
            continue
        best = min(peers, key=pace)
        scale = row.amount / best.amount
        row.against = best.who
        row.ratios = [
            scale * theirs / ours for theirs, ours in zip(best.seconds, row.seconds, strict=False)
        ]
