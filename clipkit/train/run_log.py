"""The run folder: what a run was, what it did, and what came of it.

recipe.yaml      resolved: running it again repeats the run
log.jsonl        one event a line
metrics.json     before, after and best, on the user's data and on the general set
rejects.jsonl    rows that could not be used, with the reason
model/           the trained model
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from clipkit.errors import ConfigError
from clipkit.packages import replace_file


class RunFolder:
    """Writes a run folder.

    Args:
        path: the folder; made when absent.
        recipe: the resolved recipe as YAML text, or `None` when there is none.
        restart: replace a run that is in the folder already; it comes back where this one does
            not get as far as its metrics, which then lies beside it as `NAME.failed`.
        writes: write; false in all but one of several processes, where nothing is touched.

    Raises:
        ConfigError: when the folder holds a finished run and `restart` is false, or other files, or
            a run that is still going on.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        recipe: str | None = None,
        restart: bool = False,
        writes: bool = True,
    ) -> None:
        """Make the folder and write the recipe."""
        self.path = Path(path)
        self.writes = writes
        self._started = time.monotonic()
        self._log: TextIO | None = None
        self._previous = self.path.with_name(f".{self.path.name}.previous")
        self._finished = False
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
            finished = any((self.path / part).exists() for part in ("metrics.json", "model"))
            if finished and not restart:
                raise ConfigError(
                    f"out: {self.path} holds a run already: name another folder with out=FOLDER,"
                    " or replace it with --restart"
                )
            if finished:
                self.path.rename(self._previous)
            else:  # it failed or was stopped, and there is nothing in it to keep
                shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._log = (self.path / "log.jsonl").open("a", encoding="utf-8")
        _lock(self._log)
        if recipe is not None:
            self.write("recipe.yaml", recipe)

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.path / "model"

    def log(self, event: str, **values: Any) -> None:
        """Append one event, with the seconds since the run began."""
        if self._log is None:
            return
        seconds = round(time.monotonic() - self._started, 3)
        self._log.write(json.dumps({"event": event, "seconds": seconds, **values}) + "\n")
        self._log.flush()

    def write(self, name: str, text: str) -> None:
        """Write a file that appears whole."""
        if self.writes:
            replace_file(self.path / name, text.encode())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`."""
        self.write("metrics.json", json.dumps(metrics, indent=2) + "\n")
        self._finished = True

    def close(self) -> None:
        """Close the log; the run that was replaced goes, or comes back."""
        if self._log is None:
            return
        self._log.close()
        if self._finished:
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

    def _bring_back(self) -> None:
        """Put back a run that was to be replaced by one that did not finish."""
        if not self._previous.is_dir():
            return
        if (self.path / "metrics.json").is_file():  # it did, and was stopped right after
            shutil.rmtree(self._previous)
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
