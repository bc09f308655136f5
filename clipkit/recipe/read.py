"""From YAML and overrides to a plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clipkit.errors import ConfigError, did_you_mean
from clipkit.packages import shipped_folder
from clipkit.recipe.check import check_recipe
from clipkit.recipe.plan import Plan


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
    plan = check_recipe(raw, problems)
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
