"""Several models on several data sets: what fails is told, and the others go on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.rejects import Rejects
from clipkit.errors import ClipkitError, ConfigError
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.evaluate.linear_probe import LinearProbe
from clipkit.evaluate.results import Evaluation, Kept, Score, check_folder
from clipkit.evaluate.tasks import AnyEvaluator, Task
from clipkit.evaluate.zero_shot import ZeroShot
from clipkit.models import DualEncoder, load
from clipkit.packages import file_name
from clipkit.types import PartProgress

Models = str | Path | DualEncoder
Data = str | Path | Dataset
Sets = dict[str, tuple[Dataset, dict[str, AnyEvaluator]]]
"""Data sets and their evaluators by task, by name."""

Thing = TypeVar("Thing")


def evaluate(
    models: Models | Sequence[Models],
    data: Data | Sequence[Data],
    *,
    task: str | Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    train: Data | None = None,
    validation: Data | None = None,
    max_rejected: float = 0.01,
    out: str | Path | None = None,
    details: str | Path | None = None,
    progress: PartProgress | None = None,
) -> Evaluation:
    """Score models on data sets: each model on each of them, each image encoded once.

    Args:
        models: what `clipkit.load` takes, or models; one, or a list.
        data: what `clipkit.load_data` takes, or data sets; one, or a list.
        task: "retrieval", "zero_shot", "linear_probe", "geometry", or a list of them; retrieval
            where there are captions and zero-shot where there are labels if `None`.
        templates: prompts of zero-shot, by name or as a list; the data set's own if `None`.
        train: labelled data that the linear probe is fitted on.
        validation: labelled data that its penalty is chosen on; a part of `train` if `None`.
        max_rejected: the largest share of a data set's rows that may be unusable.
        out: a file that keeps each score as soon as it is there: what it has of the same model,
            data, task and settings is not computed again.
        details: a folder for tables of each class, image and prompt, of zero-shot and linear probe.
        progress: told what is read or encoded, and how far it is.

    Returns:
        The scores, and a sentence for each model or data set that failed.

    Raises:
        ConfigError: what is asked for cannot be.
        ClipkitError: nothing could be scored.

    Example:
        >>> scores = clipkit.evaluate("starter", "skimage_photos").scores  # doctest: +SKIP
        >>> scores[0].metrics["mean_recall"]  # doctest: +SKIP
        0.77
    """
    Rejects(max_rejected)  # what cannot be used is told before the work
    kept = Kept(None if out is None else Path(out))
    if details is not None:
        _make_folder(Path(details))
    plan = Task(
        (task,) if isinstance(task, str) else tuple(task or ()),
        templates,
        None if train is None else _load_data(train, progress),
        None if validation is None else _load_data(validation, progress),
    )
    work = _Work(plan, kept, max_rejected, None if details is None else Path(details), progress)
    sets = work.read(_data(data))
    for name, model in _models(models).items():
        work.score(name, model, sets)
    failures = tuple(sentence for sentence, _ in work.failures)
    if not work.scores:
        if len(failures) == 1:
            raise work.failures[0][1]
        raise ClipkitError("\n".join(["nothing could be scored:", *failures]))
    evaluation = Evaluation(tuple(work.scores), failures, work.found)
    kept.finish(evaluation)
    return evaluation


@dataclass
class _Work:
    """What is done and what failed so far.

    Attributes:
        plan: the tasks.
        kept: the file of scores.
        max_rejected: the largest share of rows that may be unusable.
        details: a folder, or none.
        progress: told how far it is.
        scores: so far.
        failures: so far: a sentence, and the error.
        found: scores that were in the file.
    """

    plan: Task
    kept: Kept
    max_rejected: float
    details: Path | None
    progress: PartProgress | None
    scores: list[Score] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)
    found: int = 0

    def read(self, data: dict[str, Data]) -> Sets:
        """Read data sets and choose their evaluators."""
        sets = {}
        for name, given in data.items():
            with self._failing(name):
                dataset = _load_data(given, self.progress)
                sets[name] = (dataset, self.plan.evaluators(dataset, name))
        return sets

    def score(self, name: str, given: Models, sets: Sets) -> None:
        """Score a model on all data sets."""
        model: DualEncoder | None = None
        with self._failing(name):
            model = given if isinstance(given, DualEncoder) else load(given)
        if model is None or not sets:
            return
        fingerprint = model.fingerprint()
        encoder = DirectEncoder(max_rejected=self.max_rejected, keep=True, report=self.progress)
        for data, (dataset, evaluators) in sets.items():
            encoder.rejects = {}
            for task, evaluator in evaluators.items():
                settings = {**self.plan.settings(task), "max_rejected": self.max_rejected}
                about = (fingerprint, dataset.fingerprint(), settings)
                with self._failing(f"{name} on {data}, {task}"):
                    self._score(model, encoder, evaluator, Score(name, data, task, {}, *about))

    def _score(
        self,
        model: DualEncoder,
        encoder: DirectEncoder,
        evaluator: AnyEvaluator,
        wanted: Score,
    ) -> None:
        """Score a model in one task, or take the score that is kept."""
        detailed = isinstance(evaluator, ZeroShot | LinearProbe) and self.details is not None
        found = None if detailed else self.kept.find(wanted)
        if found is not None:
            self.scores.append(found)
            self.found += 1
            return
        if isinstance(evaluator, ZeroShot | LinearProbe) and self.details is not None:
            told = evaluator.details(model, encoder)
            told.write(
                self.details / file_name(wanted.model) / file_name(wanted.data) / wanted.task
            )
            metrics = told.metrics
        else:
            metrics = evaluator(model, encoder)
        data = load_data(evaluator.data)
        unread = [each for each in encoder.rejects.values() if each.where == data.name]
        self.scores.append(replace(wanted, metrics=metrics, rejected=(*data.rejects, *unread)))
        self.kept.write(self.scores)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Note an error with what it is about, and go on."""
        try:
            yield
        except (ClipkitError, OSError) as error:
            told = str(error)
            self.failures.append((told if what in told else f"{what}: {told}", error))


def _make_folder(folder: Path) -> None:
    """Make the folder of details, or raise ConfigError, before there is anything to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"details: {folder} is no folder: {error.strerror}") from None
    check_folder(folder, "details")


def _load_data(given: Data, progress: PartProgress | None) -> Dataset:
    """Read a data set and tell how many pictures are drawn, where it draws its own."""
    if progress is None:
        return load_data(given)
    return load_data(given, progress=lambda done, of: progress("drawing pictures", done, of))


def _models(given: Models | Sequence[Models]) -> dict[str, Models]:
    """Return models by name."""
    one = isinstance(given, str | Path | DualEncoder)
    models: list[Models] = [given] if one else list(given)  # type: ignore[list-item, arg-type]
    named = [(m.name or "model") if isinstance(m, DualEncoder) else str(m) for m in models]
    return _by_name(named, models, "model")


def _data(given: Data | Sequence[Data]) -> dict[str, Data]:
    """Return data sets by name."""
    one = isinstance(given, str | Path | Dataset)
    data: list[Data] = [given] if one else list(given)  # type: ignore[list-item, arg-type]
    named = [d.name if isinstance(d, Dataset) else str(d) for d in data]
    return _by_name(named, data, "data set")


def _by_name(names: list[str], things: list[Thing], what: str) -> dict[str, Thing]:
    """Put things under their names; of several with one name, each but the first gets a number.

    Raises:
        ConfigError: there is none.
    """
    if not things:
        raise ConfigError(f"no {what} is given to evaluate")
    found: dict[str, Thing] = {}
    for name, thing in zip(names, things, strict=True):
        if thing in found.values():
            continue
        number = 2
        unique = name
        while unique in found:
            unique = f"{name} ({number})"
            number += 1
        found[unique] = thing
    return found
