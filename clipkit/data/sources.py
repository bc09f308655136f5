"""What a run learns from: one data set or several, and what each of their rows is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from clipkit.data.dataset import Dataset
from clipkit.data.joined import join_data
from clipkit.errors import DataError

Objective = Literal["pairs", "views"]
"""What a row is for: its picture with its caption, or two views of its picture."""


@dataclass(frozen=True, eq=False)
class Source:
    """One data set of a run.

    Attributes:
        name: what the recipe calls it; ids of its rows begin with it where there are several.
        data: the rows.
        weight: how often each row is visited an epoch, in the mean.
        weight_column: where given, of the metadata, with a number from 0 on that a row's weight is
            multiplied by, such as the confidence of a pseudo-label.
        objectives: what its rows are for; all that they allow when `None`.
    """

    name: str
    data: Dataset
    weight: float = 1.0
    weight_column: str | None = None
    objectives: tuple[Objective, ...] | None = None

    @cached_property
    def weights(self) -> Float[np.ndarray, " rows"]:
        """The weight of each row.

        Raises:
            DataError: a row has no such number.
        """
        weights = np.full(len(self.data), self.weight)
        if self.weight_column is not None:
            for row, sample in enumerate(self.data.samples):
                weights[row] *= self._number(sample.id, sample.metadata.get(self.weight_column))
        return weights

    def _number(self, row: str, value: object) -> float:
        """Return a cell as a weight."""
        try:
            number = float(str(value))
        except ValueError:
            number = -1.0
        if not 0 <= number < np.inf:
            raise DataError(
                f"{self.data.name}: row {row} has {value!r} in column {self.weight_column!r}; a"
                " weight is a number from 0 on"
            )
        return number

    def serves(self, objective: Objective) -> bool:
        """Say whether the rows may be for an objective."""
        return self.objectives is None or objective in self.objectives


class Sources:
    """The data sets of a run as one, and which of its rows are for what.

    Args:
        sources: the first one gives its name to the whole where it is alone.

    Attributes:
        data: all rows.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        """Join them."""
        self.sources = tuple(sources)
        self.data = join_data([(source.name, source.data) for source in sources])

    @classmethod
    def of(cls, data: Dataset) -> "Sources":
        """Make one of a data set alone."""
        return cls([Source("data", data)])

    def rows(self, objective: Objective) -> Int[np.ndarray, " rows"]:
        """Return the rows that are for an objective: with a picture, and a caption for pairs."""
        able = self.data.captioned() if objective == "pairs" else self.data.pictured()
        if len(self.sources) == 1 and self.sources[0].serves(objective):
            return able
        meant = np.concatenate(
            [np.full(len(source.data), source.serves(objective)) for source in self.sources]
        )
        chosen: Int[np.ndarray, " rows"] = able[meant[able]]
        return chosen

    def weights(self, rows: Int[np.ndarray, " rows"]) -> list[Float[np.ndarray, " _"]]:
        """Return the weights of some rows in ascending order, source by source."""
        ends = np.cumsum([len(source.data) for source in self.sources])
        owners = np.searchsorted(ends, rows, side="right")
        found = []
        for number, source in enumerate(self.sources):
            mine: Bool[np.ndarray, " _"] = owners == number
            if mine.any():
                found.append(source.weights[rows[mine] - (ends[number] - len(source.data))])
        return found
