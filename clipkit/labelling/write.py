"""Which rows are labelled, and the folder that is written once they are."""

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipkit.classify.other import OTHER
from clipkit.classify.pseudo_folder import (
    MANIFEST,
    SHEETS,
    has_text_path,
    write_about,
    write_tables,
)
from clipkit.classify.pseudo_labels import Guesses, choose
from clipkit.data.columnar import ColumnarSamples
from clipkit.data.dataset import Dataset
from clipkit.data.rejects import Rejects
from clipkit.data.table import is_nothing
from clipkit.errors import ConfigError, DataError
from clipkit.labelling.answers import Answers
from clipkit.labelling.sure import Sure
from clipkit.packages import new_folder
from clipkit.report.class_sheets import draw_class_sheets
from clipkit.types import Reject

LABELLED = ("skip", "keep", "relabel")
Labelled = Literal["skip", "keep", "relabel"]

HAS_A_LABEL = "has a label already"
LEARNED_FROM = "picture is among those that were learned from"
NO_CLASS = "its own label is none of the labels"
NO_TEXT = "the name of its file is no text"


@dataclass(frozen=True, slots=True)
class Labelling:
    """What was labelled.

    Attributes:
        folder: what `label` wrote.
        rows: of the data; those with a label and those left out make them up.
        labels: how many images got each label, in the order of the labels.
        left_out: how many did not, by reason, the commonest first.
        confidence: what the numbers are: how they were calibrated, or that they were not.
    """

    folder: Path
    rows: int
    labels: dict[str, int]
    left_out: dict[str, int]
    confidence: str

    @property
    def manifest(self) -> Path:
        """What `load_data` takes."""
        return self.folder / MANIFEST


@dataclass(frozen=True, slots=True)
class Rule:
    """Which answers are kept, see `classify.pseudo_labels.choose`."""

    min_confidence: float | None = None
    top_per_class: int | None = None


class Asking:
    """Which rows of some data get a label, and what is written once they have it.

    Args:
        data: labelled in part or not at all.
        sure: the classifier.
        labelled: as `label` has it.

    Attributes:
        rows: those that the classifier is asked about.

    Raises:
        DataError: there are none.
    """

    def __init__(self, data: Dataset, sure: Sure, labelled: Labelled = "skip") -> None:
        """Look through the rows."""
        self.data, self.sure, self.labelled = data, sure, labelled
        self._classes = [str(name) for name in sure.classifier.classes_]
        if sure.classifier.other is not None and self._classes[-1] == OTHER:
            self._classes.pop()
        for name in self._classes:
            if is_nothing(name):
                raise ConfigError(f"labels: {name!r} would be read as no label: rename it")
        self._reasons = self._left_out()
        given = _labels(data) if labelled == "keep" else {}
        self._given = {at: name for at, name in given.items() if not self._reasons[at]}
        self.rows = [
            at for at, why in enumerate(self._reasons) if not why and at not in self._given
        ]
        if not self.rows:
            told = ", ".join(f"{n} {why}" for why, n in Counter(self._reasons).most_common() if why)
            raise DataError(
                f"{data.name}: none of its {len(data)} rows is to be labelled ({told or 'all have'}"
                " labels of their own); labelled: relabel takes no notice of labels that are there"
            )

    def _left_out(self) -> list[str]:
        """Return why rows are left out before anything is asked, empty for the others."""
        reasons = ["" for _ in range(len(self.data))]
        if self.labelled != "relabel":
            for at, name in _labels(self.data).items():
                if self.labelled == "skip":
                    reasons[at] = HAS_A_LABEL
                elif name not in self._classes:
                    reasons[at] = NO_CLASS
        known = {key for data in self.sure.learned_from for key in data.image_keys()}
        for at, key in enumerate(self.data.image_keys() if known else ()):
            if key in known:
                reasons[at] = reasons[at] or LEARNED_FROM
        if not isinstance(self.data.samples, ColumnarSamples):  # a table's paths are text
            for at, sample in enumerate(self.data):
                if not has_text_path(sample.image):
                    reasons[at] = reasons[at] or NO_TEXT
        return reasons

    def write(
        self, folder: Path, guesses: Guesses, rule: Rule, max_rejected: float = 0.01
    ) -> Labelling:
        """Write the folder.

        Args:
            folder: is replaced once the new one is whole.
            guesses: of `rows`.
            rule: which of them are kept.
            max_rejected: the largest share of rows that may be unusable.

        Raises:
            DataError: nothing gets a label.
            RejectedError: too many rows are unusable.
        """
        total = len(self.data) + len(self.data.rejects)
        unread = [Reject(self.data[self.rows[at]].id, why) for at, why in guesses.unread.items()]
        Rejects(max_rejected, [*self.data.rejects, *unread]).check(total, final=True)
        kept = choose(guesses, min_confidence=rule.min_confidence, top_per_class=rule.top_per_class)
        reasons = list(self._reasons)
        for at, why in zip(self.rows, kept, strict=True):
            reasons[at] = why
        left_out = Counter([why for why in reasons if why] + [r.reason for r in self.data.rejects])
        counted = Counter(
            guesses.classes[guesses.first[at]] for at, why in enumerate(kept) if not why
        )
        counted.update(self._given.values())
        if not counted:
            told = ", ".join(f"{n} {why}" for why, n in left_out.most_common())
            best = np.nanmax(guesses.confidence) if len(unread) < len(self.rows) else 0
            raise DataError(
                f"{self.data.name}: no image gets a label ({told}); the highest confidence is"
                f" {best:.3f}"
            )
        answers = Answers(self.data, self._given, dict(zip(self.rows, count(), strict=False)),
                           guesses, reasons)  # fmt: skip
        labelling = Labelling(
            folder,
            total,
            {name: counted[name] for name in self._classes},
            dict(left_out.most_common()),
            self.sure.confidence,
        )
        with new_folder(folder) as staging:
            write_tables(staging, answers, files=answers.files())
            draw_class_sheets(staging / SHEETS, answers.cells())
            write_about(staging, self._about(labelling, rule), self._manifest(folder))
        return labelling

    def _about(self, labelling: Labelling, rule: Rule) -> dict[str, Any]:
        """Return what `label.json` holds."""
        few_shot = self.sure.classifier.few_shot_
        return {
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint()},
            "classifier": repr(self.sure.classifier),
            "labels": self._classes,
            "fitted": few_shot and asdict(few_shot),
            "confidence": labelling.confidence,
            **asdict(rule),
            "labelled": self.labelled,
            "rows": labelling.rows,
            "counts": {"labels": labelling.labels, "left_out": labelling.left_out},
        }

    def _manifest(self, folder: Path) -> dict[str, Any]:
        """Return what the manifest tells besides where the table is."""
        of = [*self.sure.learned_from, self.data]
        templates = next((list(data.templates) for data in of if data.templates), [])
        return {
            "name": folder.resolve().name,
            "title": f"Labels that a classifier gave to {self.data.name}, see label.json",
            "licence": self.data.licence or f"that of {self.data.name}",
            **({"homepage": self.data.homepage} if self.data.homepage else {}),
            "class_names": self._classes,
            **({"templates": templates} if templates else {}),
        }


def _labels(data: Dataset) -> dict[int, str]:
    """Return the labels that rows have already; of a table, only its labels are read."""
    samples = data.samples
    if isinstance(samples, ColumnarSamples):
        return {int(at): str(samples[int(at)].label) for at in np.flatnonzero(samples.labelled())}
    return {at: one.label for at, one in enumerate(samples) if one.label is not None}
