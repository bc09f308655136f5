"""The folder `.work` inside a store that is being written: who may write, and what is done.

    .work/lock             held by the main process as long as it lives
    .work/plan.json        what the other processes must know; `launch` says whom it is for
    .work/hello-RANK-PID   a process that asks for the plan
    .work/joined-RANK      a process that has it
    .work/shards/K.json    shard K is whole: its entry in store.json, and its rejects
    .work/parts/K/A-B.part rows of samples A to B, of a shard that is not whole yet
    .work/units/A.lock     held by the process that is busy with the samples from A on

Nothing of it is read by who reads the store. Processes share work through these files alone, so
that one that is killed keeps nobody waiting: its locks end with it.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from clipkit.embed.parts import chain, part_range
from clipkit.embed.store import INFO, Shard
from clipkit.embed.stream import Bad
from clipkit.errors import StoreError
from clipkit.launch import Share
from clipkit.locks import FileLock, is_held
from clipkit.packages import replace_file

WORK = ".work"
UNIT = 512
"""Samples that one process does before it looks for the next: full batches, but for the last."""

PATIENCE = 300.0
"""Seconds for the main process to appear."""

LINGER = 60.0
"""Seconds that the main process waits, once all is done, for those that have not begun."""

_TICK = 0.1
_LEFT_OVER = re.compile(r"\.(shard-\d+|store|rejects).*\.\d+$")


@dataclass(frozen=True, slots=True)
class Record:
    """A shard that is whole.

    Attributes:
        shard: its entry in `store.json`.
        bad: its samples whose image is in no row.
        encoded: how many of its rows a model computed.
    """

    shard: Shard
    bad: tuple[Bad, ...]
    encoded: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes of an export agree on.

    Attributes:
        launch: names the processes that it is for.
        samples: how many there are.
        changes: the store becomes another one.
        reuse: shards whose embeddings may be used again.
    """

    launch: str
    samples: int
    changes: bool = True
    reuse: list[str] = field(default_factory=list)


class WorkFolder:
    """The right to write into a store, and what is done of it; to be entered.

    Args:
        folder: of the store.
        share: which of the processes this is.

    Raises:
        StoreError: when it is entered and another export writes into the store.
    """

    def __init__(self, folder: Path, share: Share) -> None:
        """Touch nothing yet."""
        self.folder, self.share = folder, share
        self.path = folder / WORK
        self.lock = FileLock(self.path / "lock")

    @property
    def is_main(self) -> bool:
        """Whether this process puts the store together."""
        return self.share.rank == 0

    def __enter__(self) -> "WorkFolder":
        """Take the lock, in the main process; make sure of being heard in the others."""
        with writing(self.folder):
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.is_main:
                return self
            if not self._take():
                raise StoreError(
                    f"another clipkit writes into {self.folder} at this moment: wait until it has"
                    " ended, or name another folder"
                )
            try:
                self.withdraw()
                for joined in self.path.glob("joined-*"):
                    joined.unlink(missing_ok=True)
            except BaseException:
                self.lock.give_back()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing where nothing was done."""
        if not self.is_main or not self.lock.held:
            return
        try:
            self.withdraw()
        finally:
            self.lock.give_back(remove=not any((self.path / "shards").glob("*")))
        for path in (self.path, self.folder):
            try:
                path.rmdir()
            except OSError:  # there is something in it
                break

    def _take(self) -> bool:
        """Take the lock; processes that look whether it is had have it for a moment."""
        for _ in range(20):
            try:
                if self.lock.take():
                    return True
            except FileNotFoundError:  # who had it has finished, and removed the folder
                self.path.mkdir(parents=True, exist_ok=True)
            time.sleep(_TICK / 2)
        return False

    def publish(self, plan: Plan) -> None:
        """Let the other processes begin."""
        content = json.dumps(asdict(plan)).encode()
        with writing(self.folder):
            replace_file(self.path / "plan.json", content)
        self.answer()

    def withdraw(self) -> None:
        """Have no process begin with anything more."""
        (self.path / "plan.json").unlink(missing_ok=True)

    def answer(self) -> None:
        """Tell processes that asked that the plan is the one of now, or that there is none yet."""
        for hello in self.path.glob("hello-*"):
            hello.unlink(missing_ok=True)

    def wait_for_plan(self, patience: float = PATIENCE) -> Plan:
        """Return the plan, in a process that is not the main one.

        Raises:
            StoreError: the main process does not come, or another export is there in its place.
        """
        hello = self.path / f"hello-{self.share.rank}-{os.getpid()}"
        self._say(hello)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if is_held(self.lock.path):
                deadline = time.monotonic() + patience
                plan = None if hello.exists() else self._plan()
                if plan is not None and plan.launch == self.share.launch:
                    self._say(self.path / f"joined-{self.share.rank}")
                    return plan
                if plan is not None:
                    raise StoreError(f"another clipkit writes into {self.folder} at this moment")
            elif not hello.exists():
                self._say(hello)
            time.sleep(_TICK)
        raise StoreError(
            f"process {self.share.rank} of {self.share.count} waited {patience:g} seconds for the"
            f" main one, which does not write into {self.folder}"
        )

    def _say(self, hello: Path) -> None:
        with writing(self.folder):
            self.path.mkdir(parents=True, exist_ok=True)
            hello.write_text(str(os.getpid()))

    def _plan(self) -> Plan | None:
        try:
            return Plan(**json.loads((self.path / "plan.json").read_bytes()))
        except (OSError, ValueError):
            return None

    def wait_for_joined(self, patience: float = LINGER) -> None:
        """Return when all other processes have the plan, or are late and so were killed early."""
        deadline = time.monotonic() + patience
        wanted = [self.path / f"joined-{rank}" for rank in range(1, self.share.count)]
        while not all(path.exists() for path in wanted) and time.monotonic() < deadline:
            self.answer()
            time.sleep(_TICK)

    def in_use(self) -> bool:
        """Say whether the main process is alive and has not finished."""
        return is_held(self.lock.path)

    def goes_on(self) -> bool:
        """Say whether the main process is alive and has not begun to finish the store."""
        return self.is_main or ((self.path / "plan.json").exists() and is_held(self.lock.path))

    def unit(self, start: int) -> FileLock:
        """Return the lock of the samples from one on."""
        folder = self.path / "units"
        with writing(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{start:012d}.lock")

    def parts(self, shard: int) -> Path:
        """Return the folder of the parts of a shard."""
        return self.path / "parts" / f"{shard:05d}"

    def reached(self, shard: int, start: int, stop: int) -> int:
        """Return the first of some samples of a shard that is in no part."""
        parts = chain(self.parts(shard), start, stop)
        return part_range(parts[-1])[1] if parts else start

    def record(self, shard: int) -> Record | None:
        """Return what is known of a shard that is whole."""
        try:
            told = json.loads(self._record(shard).read_bytes())
        except (OSError, ValueError):
            return None
        bad = tuple(Bad(**bad) for bad in told["bad"])
        return Record(Shard(**told["shard"]), bad, told["encoded"])

    def is_whole(self, shard: int) -> bool:
        """Say whether a shard is whole."""
        return self._record(shard).is_file()

    def keep(self, number: int, record: Record) -> None:
        """Note that a shard is whole; what it was made from goes."""
        told = {
            "shard": asdict(record.shard),
            "bad": [asdict(bad) for bad in record.bad],
            "encoded": record.encoded,
        }
        with writing(self.folder):
            self._record(number).parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._record(number), json.dumps(told).encode(errors="surrogatepass"))
            shutil.rmtree(self.parts(number), ignore_errors=True)

    def drop(self, number: int) -> None:
        """Note that a shard is not whole."""
        self._record(number).unlink(missing_ok=True)

    def _record(self, shard: int) -> Path:
        return self.path / "shards" / f"{shard:05d}.json"

    def sweep(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.folder.iterdir():
            if _LEFT_OVER.match(path.name):
                path.unlink(missing_ok=True)
        for path in self.path.rglob(".*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / "units", ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; the store is finished."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system has against writing, such as a full disk, into one sentence."""
    try:
        yield
    except OSError as error:
        begun = " again, and it goes on from there" if (folder / INFO).is_file() else " again"
        raise StoreError(
            f"{folder} cannot be written: {error.strerror or error}; mend that and run the"
            f" same{begun}"
        ) from error
