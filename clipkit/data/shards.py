"""Names of shards: what brace ranges, lists and globs stand for."""

import math
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from clipkit.data.decode import file_problem
from clipkit.errors import DataError

MOST_SHARDS = 1_000_000
"""More than these a pattern may not stand for: it is a slip of the pen, and would fill memory."""


def expand_shards(patterns: str | Sequence[str], root: Path = Path()) -> list[Path]:
    """Return the shards that brace ranges, lists and globs stand for.

    Args:
        patterns: such as `shards/{00000..00127}.tar`, `{train,val}-*.tar`, or several of them. A
            file that is called so comes first, whatever marks are in its name.
        root: the folder that they are relative to.

    Returns:
        The files, in the order of the patterns; those of one glob sorted.

    Raises:
        DataError: a shard that is named is not there, or a glob matches nothing; each is named.

    >>> [path.name for path in expand_shards([])]
    []
    """
    found: dict[Path, None] = {}
    missing = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for name in [pattern] if file_problem(root / pattern) is None else _expand_braces(pattern):
            hits = _files(name, root)
            if not hits:
                missing.append(str(root / name))
            found.update(dict.fromkeys(hits))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"no shard {', '.join(missing[:3])}{more}")
    return list(found)


def shard_names(shards: Sequence[Path]) -> list[str]:
    """Return what tells shards apart: their file names, or paths below what they have in common."""
    if len({shard.name for shard in shards}) == len(shards):
        return [shard.name for shard in shards]
    above = os.path.commonpath([shard.absolute().parent for shard in shards])
    return [Path(os.path.relpath(shard, above)).as_posix() for shard in shards]


def _files(name: str, root: Path) -> list[Path]:
    path = root / name
    if file_problem(path) is None:
        return [path]
    if not any(mark in name for mark in "*?["):
        return []
    base = Path(path.anchor) if Path(name).is_absolute() else root
    try:
        return sorted(hit for hit in base.glob(name[len(Path(name).anchor) :]) if hit.is_file())
    except ValueError as error:
        raise DataError(f"{name} is no pattern of file names: {error}") from error


def _expand_braces(pattern: str) -> list[str]:
    """Return what `{000..012}` and `{a,b}` stand for; a nested brace is left to the inner one."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[Sequence[str]] = [[part] for part in parts]
    for at in range(1, len(parts), 2):
        span = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", parts[at])
        if span:
            first, last = int(span[1]), int(span[2])
            if abs(last - first) >= MOST_SHARDS:
                raise DataError(f"{pattern} stands for more than {MOST_SHARDS:,} shards")
            step = 1 if last >= first else -1
            width = len(span[1])
            choices[at] = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        elif "," in parts[at]:
            choices[at] = parts[at].split(",")
        else:
            choices[at] = ["{" + parts[at] + "}"]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(f"{pattern} stands for more than {MOST_SHARDS:,} shards")
    return ["".join(chosen) for chosen in product(*choices)]
