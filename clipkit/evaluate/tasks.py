"""What a data set can be evaluated on, and what the names of the tasks stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipkit.data.dataset import Dataset
from clipkit.data.folder import unread_tables
from clipkit.errors import ConfigError, DataError, did_you_mean
from clipkit.evaluate.geometry import Geometry
from clipkit.evaluate.linear_probe import LinearProbe
from clipkit.evaluate.retrieval import Retrieval
from clipkit.evaluate.zero_shot import ZeroShot

AnyEvaluator = Retrieval | ZeroShot | LinearProbe | Geometry

TASKS = ("retrieval", "zero_shot", "linear_probe", "geometry")

BY_ITSELF = ("retrieval", "zero_shot")
"""What is done where no task is named."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to evaluate.

    Attributes:
        names: of `TASKS`; what captions and labels allow of retrieval and zero-shot if empty.
        templates: prompts of zero-shot.
        train: what the linear probe is fitted on.
        validation: what its penalty is chosen on.
    """

    names: tuple[str, ...] = ()
    templates: str | Sequence[str] | None = None
    train: Dataset | None = None
    validation: Dataset | None = None

    def __post_init__(self) -> None:
        """Check them against each other."""
        for name in self.names:
            if name not in TASKS:
                raise ConfigError(f"--task {name!r} is unknown{did_you_mean(name, TASKS)}")
        needs_train = "linear_probe" in self.names
        if needs_train and self.train is None:
            raise ConfigError("--task linear_probe is fitted on data of its own: give --train DATA")
        if not needs_train and (self.train is not None or self.validation is not None):
            raise ConfigError("--train and --validation are for --task linear_probe alone")

    def evaluators(self, dataset: Dataset, name: str) -> dict[str, AnyEvaluator]:
        """Return what scores a model on a data set, by task.

        Args:
            dataset: captions ask for retrieval, two labels or more for zero-shot.
            name: of the data set, as it was given, for errors.

        Raises:
            DataError: when it lacks what a task that was named needs, or has nothing to score.
        """
        captions = any(sample.captions for sample in dataset)
        labels = {sample.label for sample in dataset if sample.label is not None}
        allowed = {
            "retrieval": captions,
            "zero_shot": len(labels) > 1,
            "linear_probe": bool(labels),
            "geometry": captions or len(labels) > 1,
        }
        for task in self.names:
            if not allowed[task]:
                raise DataError(
                    f"{name} has {_lacks(task)} that {task} needs"
                    f"{unread_tables(dataset.name, dataset.samples)}"
                )
        chosen = self.names or tuple(task for task in BY_ITSELF if allowed[task])
        if not chosen:
            raise DataError(
                f"{name} has neither captions nor two labels to be scored on"
                f"{unread_tables(dataset.name, dataset.samples)}"
            )
        return {task: self._make(task, dataset) for task in chosen}

    def _make(self, task: str, data: Dataset) -> AnyEvaluator:
        """Make one evaluator."""
        if task == "retrieval":
            return Retrieval(data=data)
        if task == "zero_shot":
            return ZeroShot(data=data, templates=self.templates)
        if task == "linear_probe" and self.train is not None:
            return LinearProbe(train=self.train, data=data, validation=self.validation)
        return Geometry(data=data)

    def settings(self, task: str) -> dict[str, Any]:
        """Return what a task's metrics depend on besides model and data."""
        if task == "zero_shot":
            templates = self.templates
            return {"templates": templates if isinstance(templates, str | None) else [*templates]}
        if task != "linear_probe" or self.train is None:
            return {}
        chosen = None if self.validation is None else self.validation.fingerprint()
        return {"train": self.train.fingerprint(), "validation": chosen}


def _lacks(task: str) -> str:
    """Say what a data set has not."""
    words = {
        "retrieval": "no captions",
        "zero_shot": "no two labels",
        "linear_probe": "no labels",
        "geometry": "neither captions nor two labels",
    }
    return words[task]
