"""A contact sheet of each label: the images it is surest of, and those it is least sure of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipkit.packages import file_name
from clipkit.report.contact_sheet import Cell, contact_sheet

COLUMNS = 6
HALF = 12
"""Images of each kind on a sheet."""


def surest_and_least(confidence: Sequence[float], half: int = HALF) -> list[int]:
    """Return the places of the surest and of the least sure, the surest first; each once.

    >>> surest_and_least([0.5, 0.9, 0.7, 0.8], half=1)
    [1, 0]
    """
    order = sorted(range(len(confidence)), key=lambda at: -confidence[at])
    return order if len(order) <= 2 * half else [*order[:half], *order[-half:]]


def draw_class_sheets(folder: Path, cells: Mapping[str, Sequence[Cell]]) -> dict[str, Path]:
    """Draw a sheet of each label into a folder, which is made; return the files.

    Args:
        folder: what gets `LABEL.png`; of a label that no file can be named by, a name like it.
        cells: of each label, in the order of reading.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for label, some in cells.items():
        drawn[label] = folder / f"{file_name(label)}.png"
        contact_sheet(some, columns=COLUMNS).save(drawn[label])
    return drawn
