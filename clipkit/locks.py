"""Locks on files that end with the process that holds them, however it ends."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import fcntl
except ImportError:  # another system than POSIX: nobody is kept out
    fcntl = None  # type: ignore[assignment]

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FileLock:
    """A lock on a file, which is made when it is not there.

    Where the disk has no locks, everybody gets it.

    Args:
        path: the file; its folder must be there.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> with FileLock(path) as lock:
    ...     lock.held, FileLock(path).take()
    (True, False)
    """

    def __init__(self, path: Path) -> None:
        """Take nothing yet."""
        self.path = path
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._file is not None

    def take(self, *, wait: bool = False) -> bool:
        """Take the lock, and say whether that worked; a lock that is had already cannot be taken.

        Args:
            wait: until whoever has it gives it back.

        Raises:
            OSError: the file cannot be made.
        """
        while self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(file, wait):
                os.close(file)
                return False
            if _is_at(file, self.path):
                self._file = file
                return True
            os.close(file)  # its holder removed it meanwhile
        return False

    def give_back(self, *, remove: bool = False) -> None:
        """Let others have it.

        Args:
            remove: the file as well.
        """
        if self._file is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "FileLock":
        """Wait for the lock."""
        self.take(wait=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self.give_back()


def is_held(path: Path) -> bool:
    """Say whether anybody has the lock on a file; a file that is not there has none."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl is None or not _lock(file, wait=False, shared=True)
    finally:
        os.close(file)


def _lock(file: int, wait: bool, *, shared: bool = False) -> bool:
    module: Any = fcntl
    if module is None:
        return True
    try:
        kind = module.LOCK_SH if shared else module.LOCK_EX
        module.flock(file, kind | (0 if wait else module.LOCK_NB))
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def _is_at(file: int, path: Path) -> bool:
    """Say whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
