"""What was measured, as `benchmarks.json` and as a table in markdown."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tests.benchmarks.contenders import ROOT
from tests.benchmarks.race import BEHIND, Row, interval, spread

PACKAGES = (
    "torch",
    "open_clip_torch",
    "transformers",
    "sentence-transformers",
    "datasets",
    "webdataset",
    "timm",
    "numpy",
    "pillow",
)
HEADER = "| who | units/s | seconds | ratio | of ceiling | peak MB | equal work |"


def processor() -> str:
    """Return what the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of clipkit and of what it is measured with."""
    found = {"python": platform.python_version(), "clipkit": commit()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return clipkit's version, with the commit where there is one."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"{version('clipkit')} {done.stdout.strip()}".strip()


@dataclass(slots=True)
class Results:
    """All of a run.

    Attributes:
        scale: "quick", "usual" or "whole".
        ceilings: operations a second by device and precision: before the jobs, and after them.
        rows: of all races.
        problems: jobs that could not begin, and why.
        begun: when.
        took: seconds of each job.
        peers: versions of peers with an environment of their own.
    """

    scale: str
    ceilings: list[dict[str, float]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    begun: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    took: dict[str, float] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def ceiling(self, row: Row) -> float | None:
        """Return the ceiling that a row is measured by."""
        name = f"{row.device} {row.precision}"
        return max((one[name] for one in self.ceilings if name in one), default=None)

    def share(self, row: Row) -> float | None:
        """Return the share of the ceiling that a row reached."""
        ceiling = self.ceiling(row)
        if not row.counts or not row.flops or not ceiling:
            return None
        return row.flops / spread(row.seconds)[0] / ceiling

    def machine(self) -> dict[str, object]:
        """Return what it was measured on."""
        return {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.release()}",
            "load_at_end": os.getloadavg()[0],
        }

    def as_json(self) -> dict[str, object]:
        """Return all of it."""
        rows: list[dict[str, object]] = []
        for row in self.rows:
            told: dict[str, object] = asdict(row)
            if row.counts:
                names = ("median", "low", "high")
                told["seconds_spread"] = dict(zip(names, spread(row.seconds), strict=True))
                told["units_a_second"] = row.amount / spread(row.seconds)[0]
                told["share_of_ceiling"] = self.share(row)
            if len(row.ratios) > 1:
                told["ratio_interval"] = dict(zip(names, interval(row.ratios), strict=True))
            rows.append(told)
        return {
            "begun": self.begun.isoformat(timespec="seconds"),
            "scale": self.scale,
            "machine": self.machine(),
            "versions": {**versions(), **self.peers},
            "ceilings": self.ceilings,
            "problems": self.problems,
            "seconds_by_job": self.took,
            "rows": rows,
        }

    def as_markdown(self) -> str:
        """Return it for people."""
        about = self.machine()
        told = ", ".join(f"{name} {one}" for name, one in {**versions(), **self.peers}.items())
        lines = [
            "# clipkit beside its peers",
            "",
            f"{self.begun:%Y-%m-%d %H:%M} UTC, {about['processor']}, {about['cores']} cores,"
            f" {about['memory_gb']} GB, {about['system']}; sizes: {self.scale}. {told}.",
            "",
            f"A product of matrices, the ceiling: {self._ceilings()}.",
            "",
            "The ratio is the best peer's seconds by the row's own, round by round (above 1 is"
            " faster than the best peer): for float32 the best in float32, else the best of all."
            " Medians; in brackets, of seconds quartiles, or the ends of less than four; of ratios"
            " the interval of 95 % confidence (Student's, of logarithms). A peer that is"
            f" {BEHIND:g} times as slow as the best in the first round has no other. Memory is of"
            " the whole tree of processes; in brackets what the work added. A share of the ceiling"
            " counts the operations that the work needs.",
            "",
            *summary(self.rows),
        ]
        for job, rows in by_job(self.rows):
            some = rows[0]
            lines += ["", f"## {job}", ""]
            notes = [row.note for row in rows if row.note]
            lines += [HEADER.replace("units", some.unit), "|---" * HEADER.count("| ") + "|"]
            lines += [self._line(row) for row in rows]
            lines += [line for note in notes for line in ("", note)]
        for job, problem in self.problems.items():
            lines += ["", f"## {job}", "", f"Not measured: {problem}"]
        return "\n".join(lines) + "\n"

    def _ceilings(self) -> str:
        names = dict.fromkeys(name for one in self.ceilings for name in one)
        return "; ".join(
            f"{name} {' then '.join(f'{one[name] / 1e9:.0f}' for one in self.ceilings)} GFLOP/s"
            for name in names
        )

    def _line(self, row: Row) -> str:
        if not row.counts:
            return f"| {row.who} | {row.problem} | | | | | |"
        middle, low, high = spread(row.seconds)
        share = self.share(row)
        cells = [
            row.who,
            number(row.amount / middle),
            f"{number(middle)} ({number(low)} to {number(high)})",
            times(row) if row.ratios else "",
            "" if share is None else f"{100 * share:.0f} %",
            memory(row),
            row.agreement,
        ]
        return f"| {' | '.join(cells)} |"

    def write(self, path: Path) -> None:
        """Write the JSON file, and beside it the table."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(self.as_markdown(), encoding="utf-8")


def summary(rows: Sequence[Row]) -> list[str]:
    """Return a table of clipkit's medians alone, a line for each job that has peers."""
    lines = [
        "| work | float32 | times the best peer in float32 | `auto` | times the best peer of all |",
        "|---|---|---|---|---|",
    ]
    for job, some in by_job(rows):
        ours = {row.precision: row for row in some if row.ratios and not row.is_peer}
        if not ours:
            continue
        cells = [job]
        for precision in ("float32", "bf16"):
            row = ours.get(precision)
            cells += ["", ""] if row is None else _pace_and_ratio(row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _pace_and_ratio(row: Row) -> list[str]:
    """Say how much a row gets through and how much faster than whom that is."""
    pace = row.amount / spread(row.seconds)[0]
    return [f"{number(pace)} {row.unit}/s", f"{times(row)}, {row.against}"]


def times(row: Row) -> str:
    """Return a row's ratio to the best peer in words."""
    middle, low, high = interval(row.ratios)
    return f"{middle:.2f}" if len(row.ratios) < 2 else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def by_job(rows: Iterable[Row]) -> Iterable[tuple[str, Sequence[Row]]]:
    """Return rows by job, in the order in which jobs came."""
    found: Mapping[str, list[Row]] = {}
    found = dict(found)
    for row in rows:
        found.setdefault(row.job, []).append(row)
    return found.items()


def memory(row: Row) -> str:
    """Return a row's memory in words."""
    parts = [] if row.memory_mb is None else [f"{row.memory_mb:.0f}"]
    parts += [] if row.above_mb is None else [f"(+{row.above_mb:.0f})"]
    parts += [] if row.gpu_mb is None else [f"GPU {row.gpu_mb:.0f}"]
    return " ".join(parts)


def number(value: float) -> str:
    """Return a number to three figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
