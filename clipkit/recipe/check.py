"""Every section and number of a recipe is checked, and all problems are told together."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from functools import partial
from typing import Any

from clipkit.components import check_component, check_options, filled
from clipkit.errors import ConfigError
from clipkit.evaluate import EVALUATORS
from clipkit.losses import LOSSES
from clipkit.models import DualEncoder, fresh_towers, load, paired_towers, starter_towers
from clipkit.models.trainable import TRAINABLE, Trainable
from clipkit.recipe.check_views import check_also, check_used, check_views
from clipkit.recipe.plan import Plan
from clipkit.recipe.settings import NEEDED, SECTIONS, Recipe
from clipkit.train.class_directions import ClassDirections
from clipkit.train.kept import Selection
from clipkit.train.processes import check_trackers

MODELS: dict[str, Callable[..., DualEncoder]] = {
    "starter_towers": starter_towers,
    "paired_towers": paired_towers,
    "fresh_towers": fresh_towers,
}
"""What `model: {name: …}` can name, besides the strings that `clipkit.load` takes."""

LAST = "last"
"""What `best` says for the weights of the last step."""


def check_recipe(raw: dict[str, Any], problems: list[str]) -> Plan | None:
    """Check every section of a recipe.

    Args:
        raw: as YAML gives it.
        problems: those there are already; what is found is added.

    Returns:
        The plan, only when there are no problems.
    """
    top = check_options(Recipe, raw, "", problems)
    full = {f.name: top.get(f.name, _default(f)) for f in fields(Recipe)}
    sections = {
        name: _section(kind, full, name, problems) for name, kind in SECTIONS.items() if name in raw
    }
    trainable, full["trainable"] = _check_trainable(full["trainable"], problems)
    make_model = _check_model(full, problems)
    make_loss = None
    if full["loss"] is not None:
        make_loss, full["loss"] = check_component(LOSSES, _named(full["loss"]), "loss", problems)
    make_views = check_views(full, problems)
    also = check_also(full, problems)
    check_used(full, problems)
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
        neighbours=sections.get("neighbours"),
        pseudo_labels=sections.get("pseudo_labels"),
        selection=selection,
        trainable=trainable,
        make_model=make_model,
        also=also,
        make_loss=make_loss,
        make_views=make_views,
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
    evaluators: list[Any] = []
    for section in ("evaluate", "general"):
        for prefix, spec in (full[section] or {}).items():
            where = f"{section}.{prefix}"
            options = dict(spec) if isinstance(spec, dict) else {}
            every = options.pop("every_steps", 0)
            if not isinstance(every, int) or every < 0:
                problems.append(f"{where}.every_steps: {every!r} is no number of steps")
            if any(prefix == other for _, other, _, _ in evaluators):
                problems.append(f"{where}: evaluate has an entry of this name too; rename one")
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
    metric = (full["pseudo_labels"] or {}).get("metric")
    if metric is not None and str(metric).partition(".")[0] not in (full["evaluate"] or {}):
        problems.append(
            f"pseudo_labels.metric: {metric!r} starts with no name of evaluate: write PREFIX.METRIC"
        )
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
