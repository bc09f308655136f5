"""Recipes: YAML to typed settings, and the run they describe.

A recipe is checked as a whole before anything is loaded, and all its problems are told together.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
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
from clipkit.losses import LOSSES, Duplicates
from clipkit.models import DualEncoder, fresh_towers, load, paired_towers, starter_towers
from clipkit.models.storage import SaveSettings
from clipkit.models.trainable import TRAINABLE, Trainable
from clipkit.packages import shipped_folder
from clipkit.sentences import LongCaptions
from clipkit.train.batches import BatchSettings
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.class_directions import ClassDirections
from clipkit.train.kept import Selection
from clipkit.train.optim import OptimSettings
from clipkit.train.processes import check_trackers
from clipkit.train.teacher import TeacherSettings

MODELS: dict[str, Callable[..., DualEncoder]] = {
    "starter_towers": starter_towers,
    "paired_towers": paired_towers,
    "fresh_towers": fresh_towers,
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

    def __post_init__(self) -> None:
        """Check the template."""
        template = self.label_template
        if template is not None and template.count("{}") != 1:
            raise ConfigError(
                f"data.label_template: {template!r} has not exactly one {{}} for the label"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run.

    Attributes:
        data: what to train on.
        model: what `clipkit.load` takes, or a component.
        trainable: projections, image_tower, text_tower, all, last_blocks or lora; the latter two
            are components and have options.
        patch_dropout: share of an image's patches that a ViT does not see in training (FLIP,
            https://arxiv.org/abs/2212.00794).
        batch_norm: "fixed" keeps the statistics that batch norms have, so that no pair's features
            depend on its neighbours; "train" renews them by each batch, as from scratch they must.
        batch_size: pairs a step, over all processes.
        micro_batch_size: pairs that pass through the model at once, of each process; all if null.
            Less memory, the same gradients.
        duplicates: what pairs of one picture or one caption are to each other: "positive", "mask"
            (left out) or "ignore" (negatives).
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
        loss: a component: clip (softmax) or siglip (sigmoid); the model's scores mean that after.
        distill: a teacher to imitate, or nothing; see `TeacherSettings`.
        optim: how the parameters move.
        class_directions: options of the class-direction term, or nothing.
        evaluate: evaluators on the user's data, by prefix; `every_steps` runs them in between.
        general: evaluators of what must not be forgotten, by prefix.
        best: `prefix.metric` that chooses the model among the steps scored. If null, the mean
            recall of the first `evaluate` entry of retrieval that has `every_steps`; without one,
            or if "last", the last step's.
        patience: evaluations without a better value of it that end the run; 0 for none.
        checkpoints: when the run saves what it needs to go on, see `CheckpointSettings`.
        trackers: where else to report, by Accelerate's names: tensorboard, wandb and so on.
        max_rejected: the largest share of rows that may be unusable.
        save: what the saved model holds, see `SaveSettings`.
        out: the run folder.
    """

    data: dict[str, Any]
    model: str | dict[str, Any] = "starter"
    trainable: str | dict[str, Any] = "projections"
    patch_dropout: float = 0.0
    batch_norm: Literal["fixed", "train"] = "fixed"
    batch_size: int = 256
    micro_batch_size: int | None = None
    duplicates: Duplicates = "positive"
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
    distill: dict[str, Any] | None = None
    class_directions: dict[str, Any] | None = None
    evaluate: dict[str, dict[str, Any]] = field(default_factory=dict)
    general: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: str | None = None
    patience: int = 0
    checkpoints: dict[str, Any] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    max_rejected: float = 0.01
    save: dict[str, Any] = field(default_factory=dict)
    out: str = "runs/last"


SECTIONS: dict[str, Callable[..., Any]] = {
    "data": DataSettings,
    "optim": OptimSettings,
    "save": SaveSettings,
    "checkpoints": CheckpointSettings,
    "distill": TeacherSettings,
}
"""What the sections of a recipe become."""
NEEDED = ("data", "distill")
"""Sections without a default: one is needed, the other absent unless it is given."""
HARMLESS = ("out", "workers", "checkpoints", "trackers", "max_rejected")
"""What may change in a run that goes on: it changes nothing that comes out."""
LAST = "last"
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
    selection: Selection
    checkpoints: CheckpointSettings
    teacher: TeacherSettings | None
    trainable: Trainable
    make_model: Callable[[], DualEncoder]
    make_loss: Callable[[], Any]
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
    sections = {
        name: _section(kind, full, name, problems) for name, kind in SECTIONS.items() if name in raw
    }
    trainable, full["trainable"] = _check_trainable(full["trainable"], problems)
    make_model = _check_model(full, problems)
    make_loss, full["loss"] = check_component(LOSSES, _named(full["loss"]), "loss", problems)
    directions = None
    if full["class_directions"] is not None:
        options = check_options(
            ClassDirections, full["class_directions"], "class_directions", problems
        )
        full["class_directions"] = filled(ClassDirections, options)
        directions = partial(ClassDirections, **options)
    evaluators = _check_evaluators(full, problems)
    selection = _check_numbers(full, evaluators, problems)
    if problems or trainable is None or selection is None:
        return None
    made = {
        name: sections.get(name) or kind() for name, kind in SECTIONS.items() if name not in NEEDED
    }
    full.update({name: asdict(value) for name, value in made.items()})
    return Plan(
        recipe={key: list(v) if isinstance(v, tuple) else v for key, v in full.items()},
        settings=Recipe(**full),
        data=sections["data"],
        teacher=sections.get("distill"),
        selection=selection,
        trainable=trainable,
        make_model=make_model,
        make_loss=make_loss,
        make_class_directions=directions,
        evaluators=evaluators,
        **made,
    )


def _section(kind: Callable[..., Any], full: dict[str, Any], name: str, problems: list[str]) -> Any:
    """Make a section's settings, and write them with all defaults into the recipe."""
    if full[name] is None:
        return None
    before = len(problems)
    options = check_options(kind, full[name], name, problems)
    if len(problems) > before:
        return None
    try:
        made = kind(**options)
    except ConfigError as error:
        problems.extend(error.problems or [str(error)])
        return None
    full[name] = asdict(made)
    return made


def _check_model(full: dict[str, Any], problems: list[str]) -> Callable[[], DualEncoder]:
    """Return what makes the model."""
    if not isinstance(full["model"], dict):
        return partial(load, full["model"])
    make, full["model"] = check_component(MODELS, full["model"], "model", problems)
    return make


def _check_evaluators(full: dict[str, Any], problems: list[str]) -> list[Any]:
    """Return section, prefix, maker and `every_steps` of each evaluator."""
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
    return evaluators


def _check_numbers(
    full: dict[str, Any], evaluators: list[Any], problems: list[str]
) -> Selection | None:
    """Check what concerns several keys, or one number; return which step's weights are kept."""
    lows = (("batch_size", 2), ("epochs", 0), ("micro_batch_size", 1), ("patch_dropout", 0))
    for key, low in lows:
        if isinstance(full[key], int | float) and full[key] < low:
            problems.append(f"{key}: {full[key]} is less than {low}")
    if full["batch_norm"] == "train" and full["micro_batch_size"]:
        problems.append("batch_norm: train needs the whole batch at once: drop micro_batch_size")
    problems += check_trackers(full["trackers"])
    best = full["best"] or _default_best(full)
    prefixes = {prefix for _, prefix, _, _ in evaluators}
    if best and best != LAST and best.partition(".")[0] not in prefixes:
        problems.append(f"best: {best!r} starts with no evaluator's name: write PREFIX.METRIC")
    full["best"] = best or LAST
    try:
        return Selection(None if full["best"] == LAST else best, full["patience"])
    except ConfigError as error:
        problems.append(str(error))
        return None


def _default_best(full: dict[str, Any]) -> str | None:
    """Return the mean recall of the first retrieval on the user's data that runs in between."""
    for prefix, spec in (full["evaluate"] or {}).items():
        if spec.get("name") == "retrieval" and spec.get("every_steps"):
            return f"{prefix}.mean_recall"
    return None


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


def _flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value of a nest of sections under its dotted name."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


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
