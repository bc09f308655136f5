"""Details of a classification in files that people can open: which class fails, and as what."""

import csv
import io
import json
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from clipkit.evaluate.answers import Answers
from clipkit.packages import replace_file


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class fares.

    Attributes:
        label: its name.
        images: how many are of it.
        recall: share of them that is answered right; `None` where there are none.
        precision: share of the answers of this label that is right; `None` where it is never given.
        answers: how often the label is given.
        mistaken_for: the most frequent wrong label of its images; empty where there is none.
        mistakes: how many images get that one.
    """

    label: str
    images: int
    recall: float | None
    precision: float | None
    answers: int
    mistaken_for: str
    mistakes: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often images of one class get a label.

    Attributes:
        label: the class.
        predicted: the label given.
        images: how many.
        share: of the images of the class.
    """

    label: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """One image and its answer.

    Attributes:
        id: of the row.
        label: what it is.
        predicted: what was answered.
        right: whether that is the same.
        confidence: probability of the answer.
    """

    id: str
    label: str
    predicted: str
    right: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class TemplateScore:
    """What a prompt does.

    Attributes:
        template: the prompt.
        alone: top-1 with this one only.
        without: top-1 of all others; `None` where there is no other.
        gain: top-1 of all less that without it: above 0 it helps, below it hurts.
    """

    template: str
    alone: float
    without: float | None
    gain: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationDetails:
    """A classification in detail.

    Attributes:
        metrics: what the evaluator returns.
        names: of the classes.
        ids: of the images.
        answers: to the images.
        templates: what each prompt does, the most helpful first; none where there are no prompts.
    """

    metrics: dict[str, float]
    names: tuple[str, ...]
    ids: list[str]
    answers: Answers
    templates: tuple[TemplateScore, ...] = ()

    def confusions(self) -> list[Confusion]:
        """Return the counts of class and answer that occur, the right ones too, by number."""
        pairs = self._pairs()
        images = Counter(label for label, _ in pairs)
        found = [
            Confusion(self.names[label], self.names[given], count, count / images[label])
            for (label, given), count in Counter(pairs).items()
        ]
        return sorted(found, key=lambda each: (-each.images, each.label, each.predicted))

    def classes(self) -> list[ClassScore]:
        """Return how each class fares, the worst recall first, those without images last."""
        confusions = self.confusions()
        images: Counter[str] = Counter()
        given: Counter[str] = Counter()
        right: Counter[str] = Counter()
        wrong: dict[str, Confusion] = {}
        for each in confusions:
            images[each.label] += each.images
            given[each.predicted] += each.images
            if each.label == each.predicted:
                right[each.label] = each.images
            else:
                wrong.setdefault(each.label, each)  # they come by number
        scores = [
            ClassScore(
                name,
                images[name],
                right[name] / images[name] if images[name] else None,
                right[name] / given[name] if given[name] else None,
                given[name],
                wrong[name].predicted if name in wrong else "",
                wrong[name].images if name in wrong else 0,
            )
            for name in self.names
        ]
        return sorted(scores, key=lambda s: (s.recall is None, s.recall or 0.0, s.label))

    def images(self) -> list[ImageAnswer]:
        """Return each image's answer, the wrong ones first and of those the surest first."""
        confidence = self.answers.confidence.tolist()
        found = [
            ImageAnswer(id, self.names[label], self.names[given], label == given, sure)
            for id, (label, given), sure in zip(self.ids, self._pairs(), confidence, strict=True)
        ]
        return sorted(found, key=lambda each: (each.right, -each.confidence, each.id))

    def write(self, folder: Path) -> None:
        """Write `metrics.json` and tables that a spreadsheet opens, each of which appears whole.

        `classes.csv`, `confusions.csv`, `images.csv` and, where there are prompts, `templates.csv`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.metrics, indent=2) + "\n"
        replace_file(folder / "metrics.json", text.encode())
        _write_table(folder / "classes.csv", ClassScore, self.classes())
        _write_table(folder / "confusions.csv", Confusion, self.confusions())
        _write_table(folder / "images.csv", ImageAnswer, self.images())
        if self.templates:
            _write_table(folder / "templates.csv", TemplateScore, list(self.templates))

    def _pairs(self) -> list[tuple[int, int]]:
        """Return class and answer of each image."""
        return list(zip(self.answers.labels.tolist(), self.answers.predicted.tolist(), strict=True))


def _write_table(path: Path, kind: type[Any], rows: list[Any]) -> None:
    """Write rows as csv, with a mark at the beginning that has spreadsheets read it as UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows([map(_cell, astuple(row)) for row in rows])
    replace_file(path, text.getvalue().encode("utf-8-sig", errors="backslashreplace"))


def _cell(value: Any) -> Any:
    """Write shares with six digits, and nothing where there is none."""
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value
