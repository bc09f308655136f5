"""Scores as tables of words: which columns, which rows, and how each number is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Scored = Mapping[str, Any]
"""One of the `results` of `clipkit eval --out`: model, data, task and metrics."""

BOUNDS = ("_low", "_high")
COUNTS = {"classes", "images", "queries"}
"""Metrics that are counts."""

DISTANCES = (
    "d_positive",
    "d_negative",
    "alignment",
    "image_uniformity",
    "text_uniformity",
    "modality_gap",
)
"""Metrics that are distances, or logarithms: neither shares nor counts."""

SIDES = {
    "text_to_image": "text to image",
    "image_to_text": "image to text",
    "image": "images",
    "text": "texts",
}
"""How a metric's name begins that gets a row of its own, and what the row is called."""

TITLES = {
    "retrieval": "Retrieval",
    "zero_shot": "Zero-shot classification",
    "linear_probe": "Linear probe",
    "geometry": "Geometry",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and what stands below it.

    Attributes:
        value: as it is written; empty for none.
        below: its interval, or another value that goes with it; empty for none.
    """

    value: str = ""
    below: str = ""

    def lines(self) -> tuple[str, str]:
        """Return both, one below the other."""
        return self.value, self.below

    def line(self) -> str:
        """Return both in one line."""
        return f"{self.value} ({self.below})" if self.below else self.value


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    Attributes:
        model: whose score it is.
        data: on which data.
        side: of what, where a score has several lines; empty for one.
        cells: one for each column.
        first: whether it is the first line of its score.
    """

    model: str
    data: str
    side: str
    cells: tuple[Cell, ...]
    first: bool


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """All scores of one task.

    Attributes:
        title: what the task is.
        columns: names of the metrics.
        rows: models x data sets, those of several sides on several lines.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_sides(self) -> bool:
        """Whether a score has several lines."""
        return any(row.side for row in self.rows)


def score_tables(scores: Sequence[Scored]) -> list[ScoreTable]:
    """Return a table of each task."""
    tables = []
    for task in dict.fromkeys(score["task"] for score in scores):
        mine = [score for score in scores if score["task"] == task]
        places = {name: _place(name) for score in mine for name in score["metrics"] if shown(name)}
        columns = tuple(dict.fromkeys(column for _, column in places.values()))
        columns = tuple(sorted(columns, key=lambda column: column == "mean recall"))
        sides = list(dict.fromkeys(side for side, _ in places.values() if side)) or [""]
        rows = []
        for score in mine:
            for side in sides:
                names = {
                    column: name
                    for name, (its, column) in places.items()
                    if name in score["metrics"] and (its or sides[0]) == side
                }
                cells = tuple(
                    _cell(names[column], score["metrics"]) if column in names else Cell()
                    for column in columns
                )
                rows.append(Row(score["model"], score["data"], side, cells, side == sides[0]))
        tables.append(ScoreTable(TITLES.get(task, task), columns, tuple(rows)))
    return tables


def markdown(scores: Sequence[Scored]) -> str:
    """Return the tables in markdown, one a task."""
    parts = []
    for table in score_tables(scores):
        head = ["model", "data", *([""] if table.has_sides else []), *table.columns]
        lines = [f"### {table.title}", "", _line(head)]
        lines.append(
            _line(["---"] * (len(head) - len(table.columns)) + ["--:"] * len(table.columns))
        )
        for row in table.rows:
            side = [row.side] if table.has_sides else []
            lines.append(_line([row.model, row.data, *side, *(c.line() for c in row.cells)]))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def shown(name: str) -> bool:
    """Say whether a metric has a place of its own: ends of intervals stand with their value."""
    return not name.endswith((*BOUNDS, "_mean_rank"))


def is_headline(name: str) -> bool:
    """Say whether a change of a metric is told at the end of a training."""
    return shown(name) and name not in COUNTS | {"ece", "penalty"} and not name.endswith("_rank")


def is_share(name: str) -> bool:
    """Say whether a metric is a share in [0, 1]."""
    return name not in (*COUNTS, *DISTANCES, "penalty") and not name.endswith("_rank")


def written(name: str, value: float) -> str:
    """Write a metric's value by what it is."""
    if is_share(name):
        return percent(value)
    if name in COUNTS:
        return f"{value:.0f}"
    if name == "penalty":
        return f"{value:.1e}"
    return f"{value:.3f}" if name in DISTANCES else f"{value:,.1f}".removesuffix(".0")


def pretty(metric: str) -> str:
    """Write `text_to_image_r5` as `text to image R@5`."""
    words = metric.replace("_", " ")
    head, _, last = words.rpartition(" ")
    return f"{head} R@{last[1:]}".strip() if last[:1] == "r" and last[1:].isdigit() else words


def percent(share: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def _place(name: str) -> tuple[str, str]:
    """Return the side that a metric is of, and the name of its column."""
    for start, side in SIDES.items():
        if name.startswith(f"{start}_"):
            return side, pretty(name.removeprefix(f"{start}_"))
    return "", pretty(name)


def _cell(name: str, metrics: Mapping[str, float]) -> Cell:
    """Write a metric with its interval, or a median with the mean."""
    ends = [metrics.get(f"{name}{bound}") for bound in BOUNDS]
    below = "–".join(f"{100 * end:.1f}" for end in ends if end is not None)  # noqa: RUF001
    mean = f"{name.removesuffix('_median_rank')}_mean_rank"
    if name.endswith("_median_rank") and mean in metrics:
        below = f"mean {written(mean, metrics[mean])}"
    return Cell(written(name, metrics[name]), below)
