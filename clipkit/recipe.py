"""Recipes: YAML to typed settings, and the run they describe.

A recipe is checked as a whole before anything is loaded, and all its problems are told together.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from clipkit.components import check_component, check_options, filled
from clipkit.data.dataset import Dataset
from clipkit.data.label_captions import caption_labels
from clipkit.data.load import load_data
from clipkit.errors import ConfigError, did_you_mean
from clipkit.evaluate import EVALUATORS
from clipkit.losses import LOSSES
from clipkit.models import DualEncoder, load, paired_towers, starter_towers
from clipkit.models.storage import SaveSettings
from clipkit.models.trainable import TRAINABLE, Trainable
from clipkit.packages import shipped_folder
from clipkit.sentences import LongCaptions
from clipkit.train.class_directions import ClassDirections
from clipkit.train.optim import SCHEDULES, OptimSettings

MODELS: dict[str, Callable[..., DualEncoder]] = {
    "starter_towers": starter_towers,
    "paired_towers": paired_towers,
}
"""What `model: {name: …}` can name, besides the strings that `clipkit.load` takes."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What to train on.

    Attributes:
        train: manifest name (with @SPLIT), manifest file, table or folder.
        image_column: column of a table with the image; found by its usual names when `None`.
        caption_column: column with the caption.
        label_column: column with the label.
        root: folder that relative image paths start from.
        label_template: caption of a row that has a label and no caption, with one `{}` for the
            label; the manifest's first template, else "a photo of a {}.", if null.
        long_captions: what stands for a caption with more tokens than the model reads: its "head",
            one "sentence" of it, drawn anew each epoch, or all of it in "pieces" whose features are
            averaged, in training and by the trained model ever after.
    """

    train: str
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    root: str | None = None
    label_template: str | None = None
    long_captions: LongCaptions = "head"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run.

    Attributes:
        data: what to train on.
        model: what `clipkit.load` takes, or a component.
        trainable: projections, image_tower, text_tower, all, last_blocks or lora; the latter two
            are components and have options.
        batch_size: pairs a step, over all processes.
        epochs: visits of each row.
        seed: of initialisation, order, choice of caption, dropout and augmentation.
        precision: auto, bf16 or float32.
        augment: random crops of the training images.
        flip: mirror half of the training images; wrong where captions say left or right.
        drop_last: leave out the pairs that do not fill an epoch's last batch; if false, each pair
            is seen once an epoch, in batches of nearly the same size.
        workers: threads that decode images, of each process; the cores, at most 8, if null.
        dropout: share of hidden units that "mlp" projections drop in training.
        image_feature_dropout: share of its input that the image projection drops in training.
        text_feature_dropout: likewise of the text projection.
        loss: a component.
        optim: how the parameters move.
        class_directions: options of the class-direction term, or nothing.
        evaluate: evaluators on the user's data, by prefix; `every_steps` runs them in between.
        general: evaluators of what must not be forgotten, by prefix.
        best: `prefix.metric` that chooses the model among the steps scored; the last one if null.
        max_rejected: the largest share of rows that may be unusable.
        save: what the saved model holds, see `SaveSettings`.
        out: the run folder.
    """

    data: dict[str, Any]
    model: str | dict[str, Any] = "starter"
    trainable: str | dict[str, Any] = "projections"
    batch_size: int = 256
    epochs: int = 10
    seed: int = 0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    augment: bool = False
    flip: bool = False
    drop_last: bool = False
    workers: int | None = None
    dropout: float = 0.0
    image_feature_dropout: float = 0.0
    text_feature_dropout: float = 0.0
    loss: str | dict[str, Any] = "clip"
    optim: dict[str, Any] = field(default_factory=dict)
    class_directions: dict[str, Any] | None = None
    evaluate: dict[str, dict[str, Any]] = field(default_factory=dict)
    general: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: str | None = None
    max_rejected: float = 0.01
    save: dict[str, Any] = field(default_factory=dict)
    out: str = "runs/last"


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked recipe: settings filled in, components ready to be made.

    Attributes:
        recipe: the resolved recipe as a plain mapping; running it again repeats the run.
        settings: the same, typed.
        data: what to train on.
        optim: how the parameters move.
        save: what the saved model holds.
        trainable: chooses what trains.
        make_model: loads or builds the model.
        make_loss: builds the loss.
        make_class_directions: builds the class-direction term, or `None`.
        evaluators: section, prefix, maker and `every_steps` of each evaluator.
    """

    recipe: dict[str, Any]
    settings: Recipe
    data: DataSettings
    optim: OptimSettings
    save: SaveSettings
    trainable: Trainable
    make_model: Callable[[], DualEncoder]
    make_loss: Callable[[], Any]
    make_class_directions: Callable[[], ClassDirections] | None
    evaluators: list[tuple[str, str, Callable[[], Any], int]]

    def yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)

    def load_data(self) -> Dataset:
        """Read the training data; a label becomes the caption of a row that has none."""
        data = self.data
        loaded = load_data(
            data.train,
            image_column=data.image_column,
            caption_column=data.caption_column,
            label_column=data.label_column,
            root=data.root,
        )
        return caption_labels(loaded, data.label_template)


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe: a path, or the name of one that ships.

    Raises:
        ConfigError: when there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(shipped_folder("recipes").glob("*.yaml"))}
    stem = path.stem if path.suffix in ("", ".yaml", ".yml") else str(name)
    if stem in shipped and path.parent.name in ("", "recipes"):
        return shipped[stem]
    raise ConfigError(f"no recipe {str(name)!r}{did_you_mean(str(name), shipped)}")


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read, override and check a recipe; nothing heavy is loaded.

    Args:
        name: a path, or the name of a recipe that ships.
        overrides: `key=value` with dots for sections, such as "optim.lr=1e-4"; values are YAML.

    Raises:
        ConfigError: listing every problem at once.
    """
    path = find_recipe(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is no recipe: it holds {type(raw).__name__}, not sections")
    problems = _override(raw, overrides)
    raw.setdefault("out", f"runs/{path.stem}")
    plan = _check(raw, problems)
    if problems or plan is None:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        raise ConfigError(f"{path} has {count}:", problems)
    return plan


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Apply `key=value` overrides in place; return what is wrong with them."""
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} is no override: write key=value")
            continue
        *sections, last = key.split(".")
        target: Any = raw
        for section in sections:
            if target is raw and isinstance(target.get(section), str):
                target[section] = {"name": target[section]}
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                problems.append(f"{key}: {section} is no section")
                break
        else:
            try:
                target[last] = yaml.safe_load(value)
            except yaml.YAMLError:
                problems.append(f"{key}: {value!r} is no YAML value")
    return problems


def _check(raw: dict[str, Any], problems: list[str]) -> Plan | None:
    """Check every section and collect the problems; the plan only when there are none."""
    top = check_options(Recipe, raw, "", problems)
    full = {f.name: top.get(f.name, _default(f)) for f in fields(Recipe)}
    data = (
        check_options(DataSettings, full["data"] or {}, "data", problems) if "data" in raw else {}
    )
    template = data.get("label_template")
    if isinstance(template, str) and template.count("{}") != 1:
        problems.append(f"data.label_template: {template!r} has not exactly one {{}} for the label")
    optim = check_options(OptimSettings, full["optim"] or {}, "optim", problems)
    if optim.get("schedule", "cosine") not in SCHEDULES:
        hint = did_you_mean(str(optim["schedule"]), SCHEDULES)
        problems.append(f"optim.schedule: {optim['schedule']!r} is unknown{hint}")
    save = check_options(SaveSettings, full["save"] or {}, "save", problems)
    trainable, full["trainable"] = _check_trainable(full["trainable"], problems)
    for key, low in (("batch_size", 2), ("epochs", 0)):
        if isinstance(full[key], int) and full[key] < low:
            problems.append(f"{key}: {full[key]} is less than {low}")
    model = full["model"]
    if isinstance(model, dict):
        make_model, full["model"] = check_component(MODELS, model, "model", problems)
    else:
        make_model = partial(load, model)
    make_loss, full["loss"] = check_component(LOSSES, _named(full["loss"]), "loss", problems)
    directions = None
    if full["class_directions"] is not None:
        options = check_options(
            ClassDirections, full["class_directions"], "class_directions", problems
        )
        full["class_directions"] = filled(ClassDirections, options)
        directions = partial(ClassDirections, **options)
    evaluators = []
    for section in ("evaluate", "general"):
        for prefix, spec in (full[section] or {}).items():
            where = f"{section}.{prefix}"
            options = dict(spec) if isinstance(spec, dict) else {}
            every = options.pop("every_steps", 0)
            if not isinstance(every, int) or every < 0:
                problems.append(f"{where}.every_steps: {every!r} is no number of steps")
            make, resolved = check_component(EVALUATORS, options, where, problems)
            full[section] = {**full[section], prefix: {**resolved, "every_steps": every}}
            evaluators.append(({"evaluate": "data"}.get(section, section), prefix, make, every))
    if full["best"] and full["best"].partition(".")[0] not in {
        prefix for _, prefix, _, _ in evaluators
    }:
        problems.append(
            f"best: {full['best']!r} starts with no evaluator's name: write PREFIX.METRIC"
        )
    if problems or trainable is None:
        return None
    full["save"] = filled(SaveSettings, save)
    full["data"], full["optim"] = filled(DataSettings, data), filled(OptimSettings, optim)
    return Plan(
        recipe=full,
        settings=Recipe(**full),
        data=DataSettings(**data),
        optim=OptimSettings(**optim),
        save=SaveSettings(**save),
        trainable=trainable,
        make_model=make_model,
        make_loss=make_loss,
        make_class_directions=directions,
        evaluators=evaluators,
    )


def _check_trainable(given: Any, problems: list[str]) -> tuple[Trainable | None, Any]:
    """Make what chooses the parameters that train; return it and its full form."""
    before = len(problems)
    spec = {"name": given} if isinstance(given, str) else given
    make, full = check_component(TRAINABLE, spec, "trainable", problems)
    if len(problems) > before:
        return None, given
    try:
        return make(), full if len(full) > 1 else full["name"]
    except ConfigError as error:
        problems.append(str(error))
        return None, given


def _named(value: Any) -> Any:
    """Read `loss: clip` as `loss: {name: clip}`, and options without a name as the default's."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": "clip", **value} if isinstance(value, dict) else value


def _default(f: Any) -> Any:
    """Return a dataclass field's default, or an empty mapping."""
    if f.default_factory is not MISSING:
        return f.default_factory()
    return None if f.name == "data" else f.default
