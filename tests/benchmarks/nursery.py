"""Processes that have imported libraries and fork a worker whenever one is asked for.

Importing what a contender needs takes longer than most work that is timed, and is the same each
time. A worker forked from here has what it would have after its imports, in pages of its own as
soon as it writes on them, and is otherwise a process like any other. Linux only: elsewhere, and for
interpreters of their own, each worker imports for itself.

    python -m tests.benchmarks.nursery SOCKET MODULE [...]

SOCKET is the number of a file descriptor. Each message on it is a JSON object, with three
descriptors that become the worker's stdin, stdout and stderr; it is answered by the worker's pid.
An empty one is answered by 0, when all is imported.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks import worker

MOST = 2**16
"""Bytes of a message."""


class Nursery:
    """A process with some modules imported.

    Args:
        python: the interpreter.
        modules: names; those that cannot be imported are missing, and a worker will say so.
        folder: where it runs.
    """

    def __init__(self, python: str, modules: Sequence[str], folder: str) -> None:
        """Start it."""
        self.socket, other = socket.socketpair()
        number = str(other.fileno())
        self.process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.nursery", number, *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            pass_fds=[other.fileno()],
        )
        other.close()

    def fork(
        self, words: Sequence[str], environment: Mapping[str, str], files: Sequence[int]
    ) -> int:
        """Have a worker begin; return its pid.

        Args:
            words: what follows `python -m tests.benchmarks.worker`.
            environment: of the worker.
            files: descriptors of its stdin, stdout and stderr; they can be closed here afterwards.

        Raises:
            OSError: there is no such process any more.
        """
        message = json.dumps({"words": list(words), "environment": dict(environment)}).encode()
        socket.send_fds(self.socket, [message], list(files))
        told = self.socket.recv(64)
        if not told:
            raise OSError("the process that forks workers has ended")
        return int(told)

    def wait(self) -> None:
        """Return when it has imported its modules.

        Raises:
            OSError: there is no such process any more.
        """
        self.socket.send(b"{}")
        if not self.socket.recv(64):
            raise OSError("the process that forks workers has ended")

    def close(self) -> None:
        """End it; its workers go on."""
        self.socket.close()
        self.process.wait()


def main(number: str, *modules: str) -> None:
    """Import, and fork until the other side is gone."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else its first collection would write on every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers that end need nobody's wait
    with socket.socket(fileno=int(number)) as asked:
        while True:
            message, files, _, _ = socket.recv_fds(asked, MOST, 3)
            if not message:
                return
            told = json.loads(message)
            pid = os.fork() if told else 0
            if told and not pid:
                asked.close()
                be_worker(files, told)
            for file in files:
                os.close(file)
            asked.send(str(pid).encode())


def be_worker(files: Sequence[int], told: dict[str, Any]) -> None:
    """Become a worker; this does not return."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(told["environment"])
        worker.main(*told["words"])
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # taking down what was imported takes seconds
