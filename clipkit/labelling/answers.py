"""The rows of the tables and the pictures of the sheets, from what a classifier said."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipkit.classify.pseudo_folder import Answer
from clipkit.classify.pseudo_labels import Guesses
from clipkit.data.dataset import Dataset
from clipkit.report.class_sheets import surest_and_least
from clipkit.report.contact_sheet import Cell
from clipkit.types import Sample


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of both tables, made when they are asked for.

    Attributes:
        data: what they are of.
        given: the data's own labels, of the rows that keep them.
        places: of rows among the guesses.
        guesses: of these.
        reasons: why each row is left out; empty for those that are not.
    """

    data: Dataset
    given: dict[int, str]
    places: dict[int, int]
    guesses: Guesses
    reasons: list[str]

    def __iter__(self) -> Iterator[Answer]:
        """Yield the rows that could be read, in the order of the data, and then those that not."""
        for at, (sample, why) in enumerate(zip(self.data, self.reasons, strict=True)):
            yield self.answer(sample, at, why)
        for reject in self.data.rejects:
            yield Answer(reject.id, None, reason=reject.reason)

    def answer(self, sample: Sample, at: int, why: str) -> Answer:
        """Return one row, `at` of the data, and why it is left out if it is."""
        if at in self.given:
            return Answer(sample.id, sample.image, self.given[at], 1.0, given=True, reason=why)
        place, told = self.places.get(at), self.guesses
        if place is None or place in told.unread:
            return Answer(sample.id, sample.image, sample.label, reason=why)
        first, second = int(told.first[place]), int(told.second[place])
        next_label = told.classes[second] if second != first else None
        return Answer(
            sample.id,
            sample.image,
            told.classes[first],
            float(told.confidence[place]),
            next_label,
            None if next_label is None else float(told.second_confidence[place]),
            reason=why,
        )

    def files(self) -> bool:
        """Say whether the images of all rows that are kept are files."""
        kept = (at for at, why in enumerate(self.reasons) if not why)
        return all(isinstance(self.data[at].image, Path) for at in kept)

    def cells(self) -> dict[str, list[Cell]]:
        """Return what is drawn of each label: images that got it, the surest and the least sure."""
        by_label: dict[int, list[int]] = {}
        for at, place in self.places.items():
            if not self.reasons[at]:
                by_label.setdefault(int(self.guesses.first[place]), []).append(at)
        cells = {}
        for column, rows in sorted(by_label.items()):
            some = surest_and_least(
                [float(self.guesses.confidence[self.places[at]]) for at in rows]
            )
            answers = [self.answer(self.data[rows[at]], rows[at], "") for at in some]
            cells[self.guesses.classes[column]] = [
                Cell(
                    one.image,
                    f"{one.confidence:.3f} {one.id}",
                    () if one.second is None else (f"or {one.second} {one.second_confidence:.3f}",),
                )
                for one in answers
            ]
        return cells
