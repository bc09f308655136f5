"""The run folder: what a run was, what it did, and what came of it.

recipe.yaml      resolved: running it again repeats the run
log.jsonl        one event a line; the same run writes the same bytes
timings.jsonl    what took how long
metrics.json     before, after and best, on the user's data and on the general set
rejects.jsonl    rows that could not be used, with the reason
checkpoints/     what the run needs to go on where it was stopped
model/           the trained model

A run of several rounds has, in place of checkpoints, round-0/, round-1/ ... which are run folders.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipkit.errors import ConfigError
from clipkit.packages import replace_file


class RunFolder:
    """Writes a run folder: a new one, or one whose run was stopped and goes on.

    Args:
        path: the folder; made when absent.
        recipe: the resolved recipe as YAML text, or `None` when there is none.
        differences: what a recipe as it lies in the folder has otherwise, a line each, so far as it
            matters to a run that goes on.
        restart: replace a run that is in the folder already; it comes back where this one does
            not get as far as a checkpoint, which then lies beside it as `NAME.failed`.
        writes: write; false in all but one of several processes, where nothing is touched.

    Attributes:
        finished: the folder holds this very run, and it came to its end.

    Raises:
        ConfigError: when the folder holds another run and `restart` is false, or other files, or
            a run that is still going on.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        recipe: str | None = None,
        differences: Callable[[str], Sequence[str]] = lambda _: (),
        restart: bool = False,
        writes: bool = True,
    ) -> None:
        """Make the folder and write the recipe."""
        self.path = Path(path)
        self.writes = writes
        self.finished = False
        self._started = time.monotonic()
        self._log: TextIO | None = None
        self._previous = self.path.with_name(f".{self.path.name}.previous")
        if not writes:
            return
        if self.path.is_file():
            raise ConfigError(f"out: {self.path} is a file; name a folder")
        self._refuse_while_it_runs()
        self._bring_back()
        if self.path.is_dir() and any(self.path.iterdir()):
            if not (self.path / "log.jsonl").is_file():
                raise ConfigError(
                    f"out: {self.path} holds files that are no run: name another folder"
                )
            self._take_over(differences, restart)
        self.path.mkdir(parents=True, exist_ok=True)
        self._log = (self.path / "log.jsonl").open("a", encoding="utf-8")
        _lock(self._log)
        if recipe is not None:
            self.write("recipe.yaml", recipe)

    def _take_over(self, differences: Callable[[str], Sequence[str]], restart: bool) -> None:
        """Go on with the run that is in the folder, or make room for another."""
        finished = (self.path / "metrics.json").is_file()
        if not finished and not self._goes_on():  # there is nothing in it to keep
            shutil.rmtree(self.path)
            return
        if restart and self._previous.is_dir():  # what was to be replaced is still the other one
            shutil.rmtree(self.path)
            return
        if restart:
            self.path.rename(self._previous)
            return
        kept = self.path / "recipe.yaml"
        problems = differences(kept.read_text(encoding="utf-8")) if kept.is_file() else ()
        if problems:
            raise ConfigError(
                f"out: {self.path} holds a run of another recipe: name another folder with"
                " out=FOLDER, or replace it with --restart; it has",
                problems,
            )
        self.finished = finished

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints go."""
        return self.path / "checkpoints"

    def log(self, event: str, **values: Any) -> None:
        """Append one event, which must be the same in each repetition of the run."""
        if self._log is not None:
            self._log.write(json.dumps({"event": event, **values}) + "\n")
            self._log.flush()

    def log_size(self) -> int:
        """Return the bytes of the log."""
        return 0 if self._log is None else self._log.tell()

    def cut_log(self, size: int) -> None:
        """Forget the events after a checkpoint: they will come again."""
        if self._log is not None:
            self._log.truncate(size)
            self._log.seek(0, os.SEEK_END)  # else `log_size` would count what is gone

    def time(self, event: str, **values: Any) -> None:
        """Append one event to what keeps the time, with the seconds since this process began it."""
        if self._log is not None:
            seconds = round(time.monotonic() - self._started, 3)
            with (self.path / "timings.jsonl").open("a", encoding="utf-8") as timings:
                timings.write(json.dumps({"event": event, "seconds": seconds, **values}) + "\n")

    def read_metrics(self) -> dict[str, Any]:
        """Read `metrics.json`."""
        metrics: dict[str, Any] = json.loads((self.path / "metrics.json").read_text("utf-8"))
        return metrics

    def write(self, name: str, text: str) -> None:
        """Write a file that appears whole."""
        if self.writes:
            replace_file(self.path / name, text.encode())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`."""
        self.write("metrics.json", json.dumps(metrics, indent=2) + "\n")
        self.finished = True

    def close(self) -> None:
        """Close the log; the run that was replaced goes, or comes back."""
        if self._log is None:
            return
        self._log.close()
        if self.finished:
            shutil.rmtree(self._previous, ignore_errors=True)
        else:
            self._bring_back()

    def _refuse_while_it_runs(self) -> None:
        """Raise ConfigError where another run writes into the folder now."""
        path = self.path / "log.jsonl"
        if path.is_file():
            with path.open("a", encoding="utf-8") as log:
                if not _lock(log):
                    raise ConfigError(
                        f"out: a run is going on in {self.path}: wait, or name another folder"
                    )

    def _goes_on(self) -> bool:
        """Say whether the run in the folder has a checkpoint, or rounds that are runs."""
        return any(self.checkpoints.glob("step-*")) or any(self.path.glob("round-*"))

    def _bring_back(self) -> None:
        """Put back a run that was to be replaced by one that did not finish."""
        if not self._previous.is_dir():
            return
        if (self.path / "metrics.json").is_file():  # it did, and was stopped right after
            shutil.rmtree(self._previous)
            return
        if self._goes_on():
            return
        failed = self.path.with_name(f"{self.path.name}.failed")
        shutil.rmtree(failed, ignore_errors=True)
        if self.path.is_dir():
            self.path.rename(failed)
        self._previous.rename(self.path)


def _lock(log: TextIO) -> bool:
    """Lock a log for as long as it is open; return whether nobody else has done so.

    The system drops the lock of a process that ends, however it does. Where there are no locks, the
    answer is yes.
    """
    try:
        import fcntl

        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # another system, or a disk without locks
        return True
    return True
