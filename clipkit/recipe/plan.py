"""A recipe that was checked: all that a run needs, ready to be made."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import yaml

from clipkit.classify.prompts import resolve_templates
from clipkit.data.label_captions import caption_labels
from clipkit.data.load import load_data
from clipkit.data.sources import Objective, Source, Sources
from clipkit.labelling.settings import PseudoLabelSettings
from clipkit.models import DualEncoder
from clipkit.models.storage import SaveSettings
from clipkit.models.trainable import Trainable
from clipkit.recipe.settings import DataSettings, Recipe
from clipkit.train.batches import BatchSettings
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.class_directions import ClassDirections
from clipkit.train.kept import Selection
from clipkit.train.neighbours import NeighbourSettings
from clipkit.train.optim import OptimSettings
from clipkit.train.teacher import TeacherSettings
from clipkit.train.view_term import Views

HARMLESS = ("out", "workers", "checkpoints", "trackers", "max_rejected")
"""What may change in a run that goes on: it changes nothing that comes out."""
_OWN = {f.name for f in fields(Recipe)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked recipe: settings filled in, components ready to be made.

    Attributes:
        recipe: the resolved recipe as a plain mapping; running it again repeats the run.
        settings: the same, typed.
        data: what to train on.
        optim: how the parameters move.
        save: what the saved model holds.
        selection: which step's weights are kept.
        checkpoints: when the run saves what it needs to go on.
        teacher: a model to imitate, or `None`.
        neighbours: how neighbours come into one batch, or `None`.
        pseudo_labels: rounds of labelling and training, or `None`.
        trainable: chooses what trains.
        make_model: loads or builds the model.
        also: further data sets to train on, by name.
        make_loss: builds the loss; `None` where captions teach nothing.
        make_views: builds the image-image term, or `None`.
        make_class_directions: builds the class-direction term, or `None`.
        evaluators: section, prefix, maker and `every_steps` of each evaluator.
    """

    recipe: dict[str, Any]
    settings: Recipe
    data: DataSettings
    optim: OptimSettings
    save: SaveSettings
    selection: Selection
    checkpoints: CheckpointSettings
    teacher: TeacherSettings | None
    neighbours: NeighbourSettings | None
    pseudo_labels: PseudoLabelSettings | None
    trainable: Trainable
    make_model: Callable[[], DualEncoder]
    also: dict[str, DataSettings]
    make_loss: Callable[[], Any] | None
    make_views: Callable[[], Views] | None
    make_class_directions: Callable[[], ClassDirections] | None
    evaluators: list[tuple[str, str, Callable[[], Any], int]]

    def yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)

    def batches(self) -> BatchSettings:
        """Return what a step is fed."""
        settings = self.settings
        own = {f.name: getattr(settings, f.name) for f in fields(BatchSettings) if f.name in _OWN}
        return BatchSettings(**own, long_captions=self.data.long_captions)

    def differences(self, kept: str) -> list[str]:
        """Say what another resolved recipe has otherwise, so far as it changes what comes out.

        Args:
            kept: its YAML, as a run folder has it.
        """
        try:
            then = _flat(yaml.safe_load(kept))
        except (yaml.YAMLError, AttributeError):
            return ["a recipe.yaml that is none"]
        now = _flat(self.recipe)
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        return [
            f"{key}: {then.get(key)!r}, not {now.get(key)!r}"
            for key in changed
            if key.partition(".")[0] not in HARMLESS
        ]

    def load_sources(self) -> Sources:
        """Read the training data; a label becomes the caption of a row that has none."""
        named = {"data": self.data, **self.also}
        return Sources([self._source(name, data) for name, data in named.items()])

    def _source(self, name: str, data: DataSettings) -> Source:
        """Read one of the data sets."""
        loaded = load_data(
            data.train,
            image_column=data.image_column,
            caption_column=data.caption_column,
            label_column=data.label_column,
            root=data.root,
        )
        if data.sample < 1:
            loaded = loaded.share(data.sample)
        objectives = tuple(data.objectives or self._objectives())
        if "pairs" in objectives and self.make_loss is not None:
            templates = data.label_templates
            loaded = caption_labels(
                loaded,
                () if templates is None else resolve_templates(templates),
                keep="views" in objectives and self.make_views is not None,
            )
        return Source(name, loaded, data.weight, data.weight_column, objectives)

    def _objectives(self) -> list[Objective]:
        """Return what the run has terms for."""
        pairs: list[Objective] = ["pairs"] if self.make_loss is not None else []
        return [*pairs, "views"] if self.make_views is not None else pairs


def _flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value of a nest of sections under its dotted name."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
