"""A plot of what models between two gain and lose; the only import of matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from clipkit.errors import ConfigError
from clipkit.packages import package_folder
from clipkit.report.score_table import pretty

FORMATS = (".png", ".pdf", ".svg")
APART = 17
"""Labels of alphas are at least so many points apart; the ends and the recommended have theirs."""

_LINE, _BASE, _TUNED, _BEST = "#8a8a8a", "#1d4e89", "#b3541e", "#2a7f3f"


def check_plot(path: Path) -> None:
    """Stop before the work where a plot cannot be drawn.

    Raises:
        ConfigError: when the file's ending is none of `FORMATS`.
        MissingExtraError: without matplotlib.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"plot: {path} ends in none of {', '.join(FORMATS)}")
    package_folder("matplotlib", what="A plot", extra="report")


def draw_trade_off(summary: Mapping[str, Any], path: Path) -> None:
    """Draw each model as a point: what must not be forgotten along, the user's data upwards.

    Args:
        summary: what `clipkit interpolate --out` writes.
        path: the file; its ending says the format.

    Raises:
        ConfigError: when the ending is none of `FORMATS`.
        MissingExtraError: without matplotlib.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    points = summary["points"]
    along = [100 * point["general"] for point in points]
    up = [100 * point["data"] for point in points]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(along, up, "-o", color=_LINE, markersize=5, linewidth=1.5)
    marked = {0: ("base", _BASE, "s"), len(points) - 1: ("tuned", _TUNED, "D")}
    best = [at for at, p in enumerate(points) if p["alpha"] == summary["recommended"]]
    for at in best:
        name = "tuned, recommended" if at in marked else "recommended"
        marked[at] = (name, _BEST, "*")
    for at, (name, colour, shape) in marked.items():
        size = 16 if shape == "*" else 10
        label = f"{name} (alpha {points[at]['alpha']:g})"
        axes.plot(
            along[at], up[at], shape, color=colour, markersize=size, label=label, linestyle="none"
        )
    axes.margins(0.12)
    axes.set_title("What fine-tuning gains and forgets, by alpha", fontsize=14)
    axes.set_xlabel(_axis("not to be forgotten", summary["metrics"]["general"], 68), fontsize=11)
    axes.set_ylabel(_axis("your data", summary["metrics"]["data"], 52), fontsize=11)
    axes.tick_params(labelsize=11)
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.legend(fontsize=11)
    figure.draw_without_rendering()  # places the axes, so that distances are what they will be
    spots = [tuple(spot) for spot in axes.transData.transform(list(zip(along, up, strict=True)))]
    apart = APART * figure.dpi / 72
    for at in labelled(spots, first=list(marked), apart=apart):
        axes.annotate(
            f"{points[at]['alpha']:g}",
            (along[at], up[at]),
            xytext=(9, 5),
            textcoords="offset points",
            fontsize=11,
        )
    figure.savefig(path, dpi=150)


def labelled(
    spots: Sequence[tuple[float, float]], *, first: Sequence[int], apart: float
) -> list[int]:
    """Choose which points get a label, so that no two labels lie on each other.

    Args:
        spots: where the points are.
        first: points to be labelled before any other, the most important last.
        apart: the least distance between two labels, in the unit of `spots`.
    """
    chosen: list[int] = []
    for at in (*reversed(first), *range(len(spots))):
        x, y = spots[at]
        if all(abs(x - spots[o][0]) + abs(y - spots[o][1]) >= apart for o in chosen):
            chosen.append(at)
    return sorted(chosen)


def _axis(what: str, metrics: Sequence[str], letters: int) -> str:
    """Name what an axis shows, in lines of so many letters at most."""
    parts = [name.rpartition(".") for name in metrics]
    names = [f"{prefix}: {pretty(metric)}" for prefix, _, metric in parts]
    mean = f"mean of {', '.join(names)}" if len(names) > 1 else names[0]
    return fill(f"{what}, % ({mean})", letters)
