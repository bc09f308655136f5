"""Progress and tables on the terminal; the results go to stdout, all else to stderr."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from clipkit.report.score_table import (
    Scored,
    is_headline,
    is_share,
    percent,
    pretty,
    score_tables,
    written,
)
from clipkit.types import Progress as Told


def out() -> Console:
    """Return the console of results; without a terminal, lines are as long as they are."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def notes() -> Console:
    """Return the console of everything that is no result."""
    return Console(stderr=True, highlight=False)


class Bars:
    """Progress bars, one for each piece of work, made when it first tells how far it is."""

    def __init__(self) -> None:
        """Make the display; nothing is drawn before there is work."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=notes(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def show(self, what: str, done: int, total: int | None, told: str = "") -> None:
        """Move the bar of one piece of work.

        Args:
            what: names the work.
            done: how much of it is done.
            total: how much there is, `None` where nobody knows.
            told: more about it; rate and time left by the bar's own clock when empty.
        """
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, told="")
        task = self._tasks[what]
        if done < self._progress.tasks[self._progress.task_ids.index(task)].completed:
            self._progress.reset(task, total=total)  # the same kind of work once more
            self._last.pop(what, None)
            self._first.pop(what, None)
        first = self._first.setdefault(what, done)  # what a run before this one did is not its pace
        if not told:
            told = _rate(self._progress, task, done, total, first)
        self._progress.update(task, completed=done, total=total, told=told)
        tenth = int(10 * done / total) if total else 0
        if not self._progress.console.is_terminal and self._last.get(what) != tenth:
            self._last[what] = tenth
            self._progress.console.print(f"{what}: {done}/{total or '?'} {told}".rstrip())

    def follow(self, what: str) -> Told:
        """Return a function that moves the bar of one piece of work."""
        return lambda done, total: self.show(what, done, total)

    def __enter__(self) -> "Bars":
        """Begin to draw, on a terminal; elsewhere each tenth of the work gives a line."""
        if self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bars as they are."""
        if self._progress.console.is_terminal:
            self._progress.stop()


def _rate(progress: Progress, task: TaskID, done: int, total: int | None, first: int) -> str:
    """Say how many rows a second since the first that were told of, and how long the rest takes."""
    elapsed = progress.tasks[progress.task_ids.index(task)].elapsed or 0.0
    started = progress.tasks[progress.task_ids.index(task)].start_time
    if started is None or elapsed < 0.5:
        return ""
    rate = (done - first) / elapsed
    left = f", {clock((total - done) / rate)} left" if total and rate and done < total else ""
    return f"{rate:.0f}/s{left}"


def clock(seconds: float) -> str:
    """Write seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def before_after(metrics: Mapping[str, Any]) -> Table:
    """Return one table of a run's scores: before, after, and the change.

    Args:
        metrics: what `metrics.json` holds.
    """
    table = Table(title="Before and after", title_justify="left")
    for name in ("set", "metric", "before", "after", "change"):
        table.add_column(name, justify="left" if name in ("set", "metric") else "right")
    sections = {"data": "your data", "general": "general"}
    for section, title in sections.items():
        for prefix, after in metrics["after"].get(section, {}).items():
            before = metrics["before"][section][prefix]
            label = f"{title}: {prefix}"
            for name, value in after.items():
                if not is_headline(name):
                    continue
                table.add_row(
                    label,
                    pretty(name),
                    written(name, before[name]),
                    written(name, value),
                    _change(name, value - before[name]),
                )
                label = ""
            table.add_section()
    return table


def _change(name: str, change: float) -> str:
    """Write a change, of shares in points and in the colour of good or bad."""
    if not is_share(name):
        return f"[dim]{change:+.3f}[/]"
    points = 100 * change
    colour = "green" if points > 0.05 else "red" if points < -0.05 else "dim"
    return f"[{colour}]{points:+.1f}[/]"


def scores(given: Sequence[Scored]) -> list[Table]:
    """Return a table of each task: models x data sets, each value above its interval."""
    tables = []
    for told in score_tables(given):
        models = {row.model for row in told.rows}
        title = f"{told.title} of {models.pop()}" if len(models) == 1 else told.title
        table = Table(
            title=escape(title),
            title_justify="left",
            box=SIMPLE,
            collapse_padding=True,
            pad_edge=False,
        )
        table.add_column("data" if not models else "model, data", overflow="fold")
        for at, column in enumerate(told.columns):
            words = [
                *column.split(),
                *(word for row in told.rows for word in row.cells[at].lines()),
            ]
            table.add_column(column, justify="right", width=max(map(len, words)))
        for row in told.rows:
            names = ([row.data] if not models else [row.model, row.data]) if row.first else []
            label = "\n".join([*names, *([row.side] if row.side else [])])
            cells = [
                f"{cell.value}\n[dim]{cell.below}[/]" if cell.below else cell.value
                for cell in row.cells
            ]
            if row.first:
                table.add_section()
            table.add_row(escape(label), *cells)
        tables.append(table)
    return tables


def trade_off(summary: Mapping[str, Any]) -> Table:
    """Return a table of models between two: what each scores, gains and loses.

    Args:
        summary: what `clipkit interpolate --out` writes.
    """
    metrics = [name for names in summary["metrics"].values() for name in names]
    table = Table(title="From the base, alpha 0, to the tuned model, alpha 1", title_justify="left")
    table.add_column("alpha")
    for name in metrics:
        prefix, _, metric = name.rpartition(".")
        table.add_column(escape(f"{prefix}: {pretty(metric)}"), justify="right")
    for name in ("gain kept", "loss suffered", ""):
        table.add_column(name, justify="right" if name else "left")
    for point in summary["points"]:
        values = {
            f"{prefix}.{name}": value
            for section in point["scores"].values()
            for prefix, scored in section.items()
            for name, value in scored.items()
        }
        shares = [point["gain_kept"], point["loss_suffered"]]
        best = point["alpha"] == summary["recommended"]
        table.add_row(
            f"{point['alpha']:g}",
            *(percent(values[name]) for name in metrics),
            *("-" if share is None else f"{100 * share:.0f} %" for share in shares),
            "recommended" if best else "",
            style="bold" if best else None,
        )
    return table


def rows(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return a plain table."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    return table


@contextmanager
def bars() -> Iterator[Callable[[str], Told]]:
    """Give a maker of progress functions, each with a bar of its own."""
    with Bars() as shown:
        yield shown.follow
