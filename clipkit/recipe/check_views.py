"""The sections of a recipe that go beyond pairs of one data set: further data, and views."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from clipkit.components import check_component, check_options
from clipkit.data.views import VIEWS
from clipkit.errors import ConfigError
from clipkit.losses import VIEW_LOSSES
from clipkit.recipe.settings import DataSettings
from clipkit.train.view_term import Views, ViewSettings

OF_PAIRS = ("neighbours", "distill", "class_directions")
"""Sections that only pairs of pictures and captions have a use for."""


def check_also(full: dict[str, Any], problems: list[str]) -> dict[str, DataSettings]:
    """Make the settings of further data sets, by name, and write their defaults into the recipe."""
    found = {}
    for name, given in (full["also"] or {}).items():
        where = f"also.{name}"
        before = len(problems)
        if name == "data" or not isinstance(name, str) or "/" in name:
            problems.append(f"also: {name!r} cannot be the name of a data set here")
        if isinstance(given, dict) and "long_captions" in given:
            problems.append(f"{where}.long_captions: is that of data for all of them")
        options = check_options(DataSettings, given, where, problems)
        if len(problems) > before:
            continue
        try:
            found[name] = made = DataSettings(**options)
        except ConfigError as error:
            problems.append(str(error).replace("data.", f"{where}.", 1))
            continue
        resolved = asdict(made)
        del resolved["long_captions"]
        full["also"] = {**full["also"], name: resolved}
    return found


def check_views(full: dict[str, Any], problems: list[str]) -> Callable[[], Views] | None:
    """Return what makes the image-image term, or `None` where there is none."""
    given = full["views"]
    if given is None:
        if full["loss"] is None:
            problems.append("loss: is null and there are no views: nothing would be learned")
        return None
    if not isinstance(given, dict):  # a problem that was told already
        return None
    before = len(problems)
    options = {key: value for key, value in given.items() if key not in ("loss", "augment")}
    options = check_options(ViewSettings, options, "views", problems)
    loss = _named(given.get("loss", "ntxent"), "ntxent")
    if loss.get("name") == "moco" and options.get("head_hidden"):
        loss = {"dim": options.get("head_dim", ViewSettings().head_dim), **loss}
    view = _named(given.get("augment", "simclr"), "simclr")
    make_loss, loss = check_component(VIEW_LOSSES, loss, "views.loss", problems)
    make_view, view = check_component(VIEWS, view, "views.augment", problems)
    if len(problems) > before:
        return None
    try:
        settings = ViewSettings(**options)
        make_view()
    except ConfigError as error:
        problems.extend(f"views.{some.removeprefix('views.')}" for some in error.problems)
        return None
    if loss["name"] == "moco" and settings.momentum is None:
        problems.append("views.momentum: is null, and moco needs one, such as 0.99")
    full["views"] = {"loss": loss, "augment": view, **asdict(settings)}
    return lambda: Views(settings, make_loss(), make_view())


def check_used(full: dict[str, Any], problems: list[str]) -> None:
    """Refuse what nothing in the run would use: settings of pairs, and rows for a term it lacks."""
    if full["loss"] is None:
        problems.extend(
            f"{name}: is of pictures with captions, and loss is null: drop one of the two"
            for name in OF_PAIRS
            if full[name] is not None
        )
    terms = {"pairs": full["loss"], "views": full["views"]}
    named = {"data": full["data"], **{f"also.{k}": v for k, v in (full["also"] or {}).items()}}
    for where, data in named.items():
        meant = data.get("objectives") if isinstance(data, dict) else None
        if meant and all(terms.get(objective) is None for objective in meant):
            problems.append(
                f"{where}.objectives: {', '.join(map(str, meant))}, which the run has no loss of:"
                " its rows would not be used"
            )


def _named(value: Any, name: str) -> Any:
    """Read a name as a component without options, and options without a name as the default's."""
    return {"name": value} if isinstance(value, str) else {"name": name, **value}
