"""`clipkit recipes`: which recipes ship, and what one says."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipkit.errors import ConfigError

app = typer.Typer(help="List recipes, or print one to start your own from.", no_args_is_help=False)

KEYS = ("Needs:", "When:", "Time:")
"""What the head of a recipe says, a line each, after what it does and its command."""

INTRO = """\
# Recipes

Each is one file that runs as it is, on emoji or on a set that it names, and is there to be copied:

    clipkit recipes show openmoji_lit > mine.yaml
    clipkit train mine.yaml data.train=mine.csv

`data.train` takes a table, a folder, shards or a manifest (`clipkit data`); `evaluate` wants data
that was not trained on, and `general` is what must not be forgotten. Any other key can be changed
the same way, such as `optim.lr=1e-4`. Times are of CPU cores; a GPU is found by itself.
`clipkit recipes --markdown` writes this file from the heads of the recipes.

"""


@dataclass(frozen=True, slots=True)
class Head:
    """The comment that a recipe begins with.

    Attributes:
        what: what the recipe does, a sentence.
        command: what runs it.
        needs: what must be there.
        when: for how much data, and on which machine, to take it.
        time: how long it took.
    """

    what: str
    command: str
    needs: str
    when: str
    time: str


def read_head(path: Path) -> Head:
    """Read a recipe's head.

    Raises:
        ConfigError: when a part of it is missing.
    """
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:])
    command = next((line.strip() for line in lines if line.startswith("   ")), "")
    keyed = {key: _value(lines, key) for key in KEYS}
    parts = [lines[0].strip() if lines else "", command, *keyed.values()]
    names = ["what it does", "the command, indented", *KEYS]
    missing = [name for name, part in zip(names, parts, strict=True) if not part]
    if missing:
        raise ConfigError(f"the head of {path} lacks {', '.join(missing)}")
    return Head(*parts)


def _value(lines: list[str], key: str) -> str:
    """Return what stands after a key."""
    found = (line.strip() for line in lines if line.startswith(f" {key}"))
    return next(found, "").removeprefix(key).strip().removesuffix(".")


@app.callback(invoke_without_command=True)
def list_recipes(
    context: typer.Context,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print them as recipes/README.md has them.")
    ] = False,
) -> None:
    """List the recipes that ship, or print one with `show`."""
    if context.invoked_subcommand is not None:
        return
    from clipkit.packages import shipped_folder
    from clipkit.report import terminal

    paths = sorted(shipped_folder("recipes").glob("*.yaml"))
    if markdown:
        sys.stdout.write(as_markdown(paths))
        return
    lines = [[path.stem, read_head(path).what] for path in paths]
    terminal.out().print(terminal.rows(["name", "what it does"], lines))
    terminal.out().print(
        "next   clipkit recipes show NAME > mine.yaml, then clipkit train mine.yaml"
    )


def as_markdown(paths: list[Path]) -> str:
    """Return a table of recipes: what each trains, when to take it, what it needs and how long."""
    from clipkit.recipe import read_recipe

    lines = [
        "| recipe | what it does | trains | take it for | needs | time |",
        "|---|" + "---|" * 5,
    ]
    commands = []
    for path in paths:
        head, trainable = read_head(path), read_recipe(path).recipe["trainable"]
        trains = trainable if isinstance(trainable, str) else trainable["name"]
        cells = (head.what, f"`{trains}`", head.when, head.needs, head.time)
        lines.append(f"| [{path.stem}]({path.name}) | {' | '.join(cells)} |")
        commands.append(f"    {head.command}")
    return "\n".join([INTRO + lines[0], *lines[1:], "", "Their commands:", "", *commands, ""])


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A name of `clipkit recipes`.")]) -> None:
    """Print a recipe."""
    from clipkit.recipe import find_recipe

    sys.stdout.write(find_recipe(name).read_text(encoding="utf-8"))
