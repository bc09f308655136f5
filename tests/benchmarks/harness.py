"""Contenders that do the same work in turn, each in a process of its own, and what they took.

A job is a module of this folder with a function `run(bench)`, which has contenders race. What they
come to is compared before their times are: one whose answer differs has no ratio. One that fails,
or is not installed, has a row that says so.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.contenders import Contender, Running
from tests.benchmarks.race import Race, Row

ENOUGH = 45
"""Seconds of work in a race after which no further round begins, but for the sizes people have."""
ROUNDS = 3
"""That there are in any case: of fewer, an interval says nothing."""

Scale = Literal["quick", "usual", "whole"]


class Bench:
    """What a job needs to know and to call.

    Args:
        folder: for files, gone afterwards.
        scale: "quick", "usual", or "whole": the sizes that people have, whatever they take.
        devices: "cpu", and "cuda" where there is one.
        told: called with each race's rows, and the seconds that it took.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale = "usual",
        devices: Sequence[str] = ("cpu",),
        told: Callable[[Sequence[Row], float], None] | None = None,
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
        settings.setdefault("at_least", self.pick(1, ROUNDS))
        begun = time.perf_counter()
        rows = Race(job, contenders, **settings).run()
        self.rows += rows
        if self.told is not None:
            self.told(rows, time.perf_counter() - begun)
        return rows

    def prepare(self, function: str, *, imports: tuple[str, ...] = (), **given: Any) -> Path:
        """Have a function write files into a new folder, once, in a process of its own.

        Args:
            function: "module:function", which gets `folder` and what is given, and gives a `Work`.
            imports: that the process has, see `Contender`.
            given: what JSON can say.

        Raises:
            ContenderError: it cannot.
        """
        key = json.dumps([function, given], sort_keys=True)
        if key not in self._prepared:
            folder = self.folder / f"prepared{len(self._prepared)}"
            folder.mkdir()
            with tempfile.TemporaryDirectory() as name:
                told = {**given, "folder": str(folder)}
                running = Running(Contender("", function, told, imports=imports), Path(name))
                try:
                    running.go()
                finally:
                    running.close()
            self._prepared[key] = folder
        return self._prepared[key]
