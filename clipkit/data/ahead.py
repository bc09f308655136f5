"""Work on rows in threads, ahead of who takes the results, in order; and never waiting for ever."""

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import cache
from typing import Any, Generic, TypeVar

from clipkit.errors import ClipkitError, ConfigError, DataError

T = TypeVar("T")
R = TypeVar("R")

STALL_SECONDS = 300.0
"""A row whose image is not read and decoded after so many seconds ends the work."""

EXIT_SECONDS = 3.0
"""How long the end of the process waits for rows that threads are at work on."""


class _Job(Generic[T, R]):
    """One row on its way."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.done = threading.Event()
        self.result: R
        self.error: BaseException | None = None


def map_ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    ahead: int,
    name: Callable[[T], str],
    stall_seconds: float | None = None,
) -> Generator[R, None, None]:
    """Yield `work(item)` for each item in order, while threads are busy with the next ones.

    Args:
        work: runs in a thread; in the caller's own where `threads` is 0.
        items: taken in the caller's thread, when there is room for one more.
        threads: how many work at a time.
        ahead: how many items are held at a time, at most.
        name: says which row an item is, for errors.
        stall_seconds: how long the caller waits for one row; `STALL_SECONDS` when `None`. A call
            that hangs, as on a network disk that is gone, cannot be stopped: its thread is left
            behind and ends with the process.

    Raises:
        ConfigError: `threads` is below 0.
        DataError: the work on a row takes too long, or fails in a way that it does not answer
            for itself; the row is named.
    """
    patience = STALL_SECONDS if stall_seconds is None else stall_seconds
    if threads < 0:
        raise ConfigError(f"workers must be at least 0, not {threads}")
    if threads == 0:
        for item in items:
            job = _Job[T, R](item)
            _do(work, job)
            yield _take(job, name, patience)
        return
    jobs: queue.SimpleQueue[_Job[T, R] | None] = queue.SimpleQueue()
    waiting: deque[_Job[T, R]] = deque()
    servers = [_Server(work, jobs, f"clipkit-{number}") for number in range(threads)]
    for server in servers:
        server.start()
    try:
        for item in items:
            job = _Job[T, R](item)
            waiting.append(job)
            jobs.put(job)
            if len(waiting) >= max(ahead, 1):
                yield _take(waiting.popleft(), name, patience)
        while waiting:
            yield _take(waiting.popleft(), name, patience)
    finally:
        for server in servers:
            server.ask_to_end()


class _Server(threading.Thread):
    """A thread that does jobs until it is asked to end.

    One that hangs must not keep the process from ending, so it is a daemon. But a daemon that the
    end of the process meets in the code of a library can abort the process, so the end waits.
    """

    def __init__(
        self, work: Callable[[Any], Any], jobs: "queue.SimpleQueue[Any]", name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._jobs, self._asked = work, jobs, threading.Event()
        _wait_at_exit()
        _SERVERS.add(self)

    def run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._asked.is_set():
            _do(self._work, job)

    def ask_to_end(self) -> None:
        self._asked.set()
        self._jobs.put(None)


_SERVERS: "weakref.WeakSet[_Server]" = weakref.WeakSet()


@cache
def _wait_at_exit() -> None:
    """Have the end of the process wait for the threads, once."""
    atexit.register(_end_servers)


def _end_servers() -> None:
    until = time.monotonic() + EXIT_SECONDS
    servers = list(_SERVERS)
    for server in servers:
        server.ask_to_end()
    for server in servers:
        if server.is_alive():
            server.join(max(0.0, until - time.monotonic()))


def _do(work: Callable[[T], R], job: _Job[T, R]) -> None:
    try:
        job.result = work(job.item)
    except BaseException as error:  # whatever it is, the one who waits is told
        job.error = error
    job.done.set()


def _take(job: _Job[T, R], name: Callable[[T], str], stall_seconds: float) -> R:
    if not job.done.wait(stall_seconds):
        raise DataError(
            f"row {name(job.item)!r} is not read after {stall_seconds:g} seconds: its disk or "
            "network hangs, or the image does; mend or leave out the row and run again"
        )
    if job.error is None:
        return job.result
    if isinstance(job.error, Exception) and not isinstance(job.error, ClipkitError):
        cause = str(job.error).strip().partition("\n")[0] or "no more is known"
        raise DataError(
            f"row {name(job.item)!r} broke its reader: {type(job.error).__name__}: {cause}"
        ) from job.error
    raise job.error
