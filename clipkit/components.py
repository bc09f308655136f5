"""Components: `{name: …, options…}` against a signature. The only import of pydantic.

The schema of the options is the signature of what the name stands for; there is no second list.
`module:Name` reaches code outside clipkit.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from clipkit.errors import did_you_mean


def check_component(
    table: Mapping[str, Callable[..., Any]], spec: Any, where: str, problems: list[str]
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Check a component against the signature of what it names; return its maker and full form."""
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        problems.append(f"{where}: needs a name; known: {', '.join(sorted(table))}")
        return dict, {}
    options = dict(spec)
    name = options.pop("name")
    target = table.get(name) or _outside(name)
    if target is None:
        problems.append(f"{where}.name: {name!r} is unknown{did_you_mean(name, table)}")
        return dict, {}
    checked = check_options(target, options, where, problems)
    return partial(target, **checked), {"name": name, **filled(target, checked)}


def _outside(name: str) -> Callable[..., Any] | None:
    """Import `module:Name`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return target if callable(target) else None


def check_options(
    target: Callable[..., Any], given: Any, where: str, problems: list[str]
) -> dict[str, Any]:
    """Check keywords against a signature; return those that were given, in their right types."""
    prefix = f"{where}." if where else ""
    if not isinstance(given, dict):
        problems.append(f"{where}: {given!r} is no section of key: value pairs")
        return {}
    schema = _schema(target)
    try:
        checked = schema.model_validate({str(key): value for key, value in given.items()})
    except ValidationError as error:
        for item in error.errors():
            key = str(item["loc"][0]) if item["loc"] else ""
            problem = _problem(item, key, prefix, list(schema.model_fields))
            if problem not in problems:
                problems.append(problem)
        wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
        return {key: value for key, value in given.items() if key not in wrong}
    return {key: getattr(checked, key) for key in given}


def _problem(item: Any, key: str, prefix: str, known: list[str]) -> str:
    """Say one problem that pydantic found."""
    if item["type"] == "extra_forbidden":
        return f"{prefix}{key}: unknown key{did_you_mean(key, known)}"
    if item["type"] == "missing":
        return f"{prefix}{key}: is required"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{prefix}{key}: {message}, not {item['input']!r}"


def _schema(target: Callable[..., Any]) -> type[BaseModel]:
    """Make a pydantic model of a signature."""
    hints = get_type_hints(
        target if inspect.isfunction(target) or is_dataclass(target) else target.__init__
    )
    parameters: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        parameters[name] = (hints.get(name, Any), ... if required else parameter.default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model("Options", __config__=config, **parameters)


def filled(target: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with their defaults, in plain types."""
    schema = _schema(target)
    full: dict[str, Any] = schema.model_construct(**options).model_dump(
        mode="python", warnings=False
    )
    return {key: list(v) if isinstance(v, tuple) else v for key, v in full.items()}
