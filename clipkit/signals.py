"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and what Slurm sends before it pre-empts a job.

The first one is noted, so that the run can save what it has; a second Ctrl-C ends it at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from clipkit.errors import Interrupted

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class StopSignals:
    """Notes signals while it is entered; elsewhere than in the main thread it notes none.

    Attributes:
        number: of the signal that came, or 0.
    """

    def __init__(self) -> None:
        """No signal has come."""
        self.number = 0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                before = signal.signal(number, self._note)
                # None is a handler of other code than Python's, which cannot be put back.
                self._before[number] = signal.SIG_DFL if before is None else before
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave signals to whoever had them before."""
        while self._before:
            signal.signal(*self._before.popitem())

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Interrupted where it comes: there is nothing to save.

        Raises:
            Interrupted: also when the signal came before.
        """
        self._at_once = True
        try:
            if self.number:
                stop(self.number)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.number = not self.number, self.number or number
        if self._at_once:
            stop(number)
        if not first and number == signal.SIGINT:
            raise KeyboardInterrupt


def stop(number: int) -> NoReturn:
    """Raise Interrupted for a signal."""
    raise Interrupted(f"stopped by {signal.Signals(number).name}", signal_number=number)
