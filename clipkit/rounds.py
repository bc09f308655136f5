"""Rounds of pseudo-labels: label what has no label, train on it too, and again while it helps.

Self-training (Lee 2013; noisy student, https://arxiv.org/abs/1911.04252): round 0 trains on the
labelled data alone. Each round after that has the best model so far label the unlabelled data, and
trains from the recipe's own model anew on both, a pseudo-labelled row by its confidence.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.images import Images
from clipkit.classify.pseudo_folder import MANIFEST, is_pseudo_folder, read_about
from clipkit.classify.pseudo_labels import guess_features
from clipkit.classify.scorer import Truth
from clipkit.data.dataset import Dataset
from clipkit.data.label_captions import PLAIN
from clipkit.data.load import load_data
from clipkit.errors import ConfigError, DataError
from clipkit.labelling.settings import PseudoLabelSettings
from clipkit.labelling.sure import Sure, make_sure
from clipkit.labelling.write import Asking
from clipkit.models import DualEncoder, load
from clipkit.models.trainable import Counts, set_trainable
from clipkit.packages import copy_folder
from clipkit.recipe import Plan, read_recipe
from clipkit.run import TrainResult
from clipkit.run import train as train_once
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.processes import is_main_process, told_by_main, wait_for_everyone
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import pick
from clipkit.train.watch import StepReport
from clipkit.types import PartProgress

SOURCE = "pseudo_labels"
"""What the rounds call the labelled rows among the data that they train on."""


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told of what while a run goes on, see `train`."""

    on_start: Callable[[Counts], None] | None = None
    on_encode: PartProgress | None = None
    on_progress: Callable[[StepReport], None] | None = None
    on_note: Callable[[str], None] | None = None


def train(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    restart: bool = False,
    on_start: Callable[[Counts], None] | None = None,
    on_encode: PartProgress | None = None,
    on_progress: Callable[[StepReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train as a recipe says: once, or with pseudo-labels in rounds; see `run.train`.

    The folder of a run of rounds has `round-0/`, `round-1/` and so on, each a run of its own, and
    `labels-1/` and so on, see `classify.pseudo_folder`. `model/` is that of the best round, and
    `metrics.json` has its scores and the `rounds`. A run that was stopped goes on at the round and
    the step where it was.

    Raises:
        ConfigError: besides, where the unlabelled data is not what it was.
    """
    told = Told(on_start, on_encode, on_progress, on_note)
    plan = read_recipe(recipe, overrides)
    settings = plan.pseudo_labels
    if settings is None:
        return _once(recipe, overrides, told, restart=restart)
    run = RunFolder(
        plan.settings.out,
        recipe=plan.yaml(),
        differences=plan.differences,
        restart=restart,
        writes=is_main_process(),
    )
    try:
        rounds = _Rounds(recipe, list(overrides), plan, settings, run, told)
        if told_by_main(run.finished):
            return rounds.finished()
        return rounds.train()
    finally:
        run.close()


def _once(
    recipe: str | Path, overrides: Sequence[str], told: Told, *, restart: bool = False
) -> TrainResult:
    return train_once(
        recipe,
        overrides,
        restart=restart,
        on_start=told.on_start,
        on_encode=told.on_encode,
        on_progress=told.on_progress,
        on_note=told.on_note,
    )


@dataclass
class _Rounds:
    """A run of several rounds, and what came of those that are done."""

    recipe: str | Path
    overrides: list[str]
    plan: Plan
    settings: PseudoLabelSettings
    run: RunFolder
    told: Told
    done: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the data."""
        self.labelled = self._labelled()
        self.unlabelled = load_data(self.settings.data)

    def _labelled(self) -> Dataset:
        """Return the rows of the recipe's data that have a label.

        Raises:
            DataError: there are none.
        """
        data, of = self.plan.data, self.plan.load_sources().sources[0].data
        samples = [sample for sample in of if sample.label is not None]
        if not samples:
            raise DataError(f"{data.train} has no labels, which pseudo-labels are learned from")
        names = tuple(sorted({str(sample.label) for sample in samples}))
        return Dataset(of.name, samples, of.class_names or names, of.templates)

    def finished(self) -> TrainResult:
        """Return a run that came to its end before, once its data are known to be what they were.

        Raises:
            ConfigError: when they are not.
        """
        metrics = self.run.read_metrics()
        self._same("data", metrics["labelled"], self.labelled.fingerprint())
        self._same("pseudo_labels.data", metrics["unlabelled"], self.unlabelled.fingerprint())
        model = load(str(self.run.model))
        return TrainResult(model, self.run.path, metrics, self.run.writes, True)

    def train(self) -> TrainResult:
        """Train round after round, and keep the best one's model."""
        self.run.cut_log(0)  # rounds that are done tell again what came of them
        best, stopped = self._round(0), "all rounds are done"
        start = pick(best.metrics["before"], self.settings.metric)
        value = pick(best.metrics["after"], self.settings.metric)
        kept = 0
        for number in range(1, self.settings.rounds + 1):
            self._label(number, best.folder / "model" if value >= start else None)
            result = self._round(number)
            after = pick(result.metrics["after"], self.settings.metric)
            if not after > value:
                stopped = f"round {number} does not better {self.settings.metric}"
                break
            best, value, kept = result, after, number
        return self._finish(best, kept, stopped)

    def _round(self, number: int) -> TrainResult:
        """Train on the labelled data, and from round 1 on on what was labelled for it."""
        out = self.run.path / f"round-{number}"
        changes = ["pseudo_labels=null", f"out={json.dumps(str(out))}"]
        if number:
            source = {
                "train": str(self._labels(number) / MANIFEST),
                "weight": self.settings.weight,
                "weight_column": "confidence",
                "label_templates": self._templates(),
            }
            changes.append(f"also.{SOURCE}={json.dumps(source)}")
        result = _once(self.recipe, [*self.overrides, *changes], self.told)
        told = {"round": number, "metric": pick(result.metrics["after"], self.settings.metric)}
        about = told_by_main(read_about(self._labels(number)) if number and self._writes else {})
        for key in ("confidence", "counts"):
            if key in about:
                told[key] = about[key]
        self.done.append({**told, "scores": result.metrics["after"]})
        self.run.log("round", **told)
        self._note(f"round {number}: {self.settings.metric} {told['metric']:.4f}")
        return result

    def _label(self, number: int, folder: Path | None) -> None:
        """Have a model label the unlabelled data for a round, unless that is done.

        Args:
            number: of the round.
            folder: the model's; the one that the recipe starts from if `None`.
        """
        if self._writes:
            labels = self._labels(number)
            if is_pseudo_folder(labels):
                then = read_about(labels)["data"]["fingerprint"]
                self._same("pseudo_labels.data", then, self.unlabelled.fingerprint())
            else:
                self._write_labels(labels, folder)
        wait_for_everyone()

    def _write_labels(self, labels: Path, folder: Path | None) -> None:
        """Encode the data, from what is kept where the image tower is frozen, and label it."""
        model = self.plan.make_model()
        set_trainable(model, self.plan.trainable)
        always_the_same = frozen(model.image_tower)
        if folder is not None:
            model = load(str(folder))
        model.requires_grad_(not always_the_same)
        limit = self.plan.settings.max_rejected
        cache = FeatureCache(report=self.told.on_encode, max_rejected=limit)
        sure = self._sure(model, cache, trained=folder is not None)
        asking = Asking(self.unlabelled, sure, self.settings.labelled)
        features, rows = cache.images(model, self.unlabelled)
        reasons = {reject.id: reject.reason for reject in cache.rejected(self.unlabelled)}
        place = {row: at for at, row in enumerate(rows)}
        seen = [at for at, row in enumerate(asking.rows) if row in place]
        unread = {
            at: reasons.get(self.unlabelled[row].id, "image cannot be read")
            for at, row in enumerate(asking.rows)
            if row not in place
        }
        wanted = features[[place[asking.rows[at]] for at in seen]]
        guesses = guess_features(sure.classifier, wanted, seen, unread)
        told = asking.write(labels, guesses, self.settings.rule, limit)
        kept = sum(told.labels.values())
        self._note(f"{labels.name}: {kept} of {told.rows} rows got a label, {told.confidence}")

    def _sure(self, model: DualEncoder, cache: FeatureCache, *, trained: bool) -> Sure:
        """Fit a classifier on the labelled data, and calibrate it."""

        def encode(data: Dataset) -> tuple[Images, Truth]:
            features, rows = cache.images(model, data)
            return features, [data[row].label for row in rows]

        calibrate = self.settings.calibrate
        names = list(self.labelled.class_names)
        classifier = ZeroShotClassifier(model, names, templates=self.settings.templates)
        of = None if calibrate is None else load_data(calibrate)
        sure = make_sure(classifier, self.labelled, of, encode)
        if trained and of is None:
            about = f"{sure.confidence}; the model was trained on them"
            return Sure(sure.classifier, about, sure.learned_from)
        return sure

    def _finish(self, best: TrainResult, kept: int, stopped: str) -> TrainResult:
        """Put what came of the best round where a run has it, and add the rounds."""
        metrics = {
            **best.metrics,
            "rounds": self.done,
            "kept_round": kept,
            "stopped": stopped,
            "labelled": self.labelled.fingerprint(),
            "unlabelled": self.unlabelled.fingerprint(),
        }
        if self.run.writes:
            copy_folder(best.folder / "model", self.run.model)
            rejects = (best.folder / "rejects.jsonl").read_text(encoding="utf-8")
            self.run.write("rejects.jsonl", rejects)
            self.run.log("kept", round=kept, stopped=stopped)
            self.run.write_metrics(metrics)
        wait_for_everyone()
        self._note(f"kept round {kept}: {stopped}")
        return TrainResult(load(str(self.run.model)), self.run.path, metrics, self.run.writes)

    def _templates(self) -> list[str]:
        """Return what makes captions of labels: of both data sets alike, or classes would part."""
        told = self.plan.data.label_templates
        if told is not None:
            return [told] if isinstance(told, str) else told
        return [*self.labelled.templates[:1]] or [PLAIN]

    def _labels(self, number: int) -> Path:
        return self.run.path / f"labels-{number}"

    @property
    def _writes(self) -> bool:
        return self.run.writes

    def _same(self, what: str, then: str, now: str) -> None:
        if then != now:
            raise ConfigError(
                f"out: the run in {self.run.path} was begun with other data; name another folder"
                " with out=FOLDER, or begin again with --restart",
                [f"{what}: {then} then, {now} now"],
            )

    def _note(self, text: str) -> None:
        if self.told.on_note is not None and self.run.writes:
            self.told.on_note(text)
