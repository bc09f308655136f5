"""How a run goes: on the terminal, in the log, and in what keeps the time."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clipkit.train.feed import StepBatch
from clipkit.train.run_log import RunFolder

TELL_SECONDS = 0.5
LOG_STEPS = 10
"""The log has every tenth step, and the first and the last."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What the terminal shows while training.

    Attributes:
        step: steps done.
        steps: steps of the whole run.
        loss: of the last step, in nats.
        logit_scale: the multiplier after that step.
        rate: pairs a second.
        seconds_left: at that rate.
    """

    step: int
    steps: int
    loss: float
    logit_scale: float
    rate: float
    seconds_left: float


class Watch:
    """Keeps the time of the steps.

    Args:
        start: steps taken before.
        steps: of the whole run.
        batch_size: pairs a step.
        run: where times go: into `timings.jsonl`, for no two runs take the same.
        on_progress: told about the run about twice a second.
    """

    def __init__(
        self,
        start: int,
        steps: int,
        batch_size: int,
        run: RunFolder,
        on_progress: Callable[[StepReport], None] | None,
    ) -> None:
        """Start the clock."""
        self.start, self.steps, self.batch_size = start, steps, batch_size
        self.run, self.on_progress = run, on_progress
        self.waited = 0.0
        self._started = time.monotonic()
        self._told = 0.0
        self._paused = 0.0

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        return time.monotonic() - self._started - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside as training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began

    def waiting(self, batches: Iterable[StepBatch]) -> Iterator[StepBatch]:
        """Pass batches on, and count how long they are waited for."""
        began = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - began
            yield batch
            began = time.monotonic()

    def logs(self, step: int) -> bool:
        """Say whether a step is one that the log has."""
        return step in (1, self.steps) or step % LOG_STEPS == 0

    def tell(self, step: int, loss: float, scale: float) -> None:
        """Tell the terminal about a step, if it is time to."""
        if step < self.steps and time.monotonic() - self._told < TELL_SECONDS:
            return
        self._told = time.monotonic()
        done, seconds = step - self.start, self.seconds()
        rate = done * self.batch_size / max(seconds, 1e-9)
        left = (self.steps - step) * seconds / done
        self.run.time(
            "step",
            step=step,
            train_seconds=round(seconds, 3),
            pairs_per_second=round(rate, 1),
            waited_seconds=round(self.waited, 3),
        )
        if self.on_progress and self.run.writes:
            self.on_progress(StepReport(step, self.steps, loss, scale, rate, left))
