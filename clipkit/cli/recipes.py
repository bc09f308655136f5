"""`clipkit recipes`: which recipes ship, and what one says."""

import sys
from typing import Annotated

import typer

app = typer.Typer(help="List recipes, or print one to start your own from.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the recipes that ship, or print one with `show`."""
    if context.invoked_subcommand is not None:
        return
    from clipkit.packages import shipped_folder
    from clipkit.report import terminal

    lines = []
    for path in sorted(shipped_folder("recipes").glob("*.yaml")):
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        lines.append([path.stem, head.removeprefix("# ")])
    terminal.out().print(terminal.rows(["name", "what it does"], lines))
    terminal.out().print(
        "next   clipkit recipes show NAME > mine.yaml, then clipkit train mine.yaml"
    )


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A name of `clipkit recipes`.")]) -> None:
    """Print a recipe."""
    from clipkit.recipe import find_recipe

    sys.stdout.write(find_recipe(name).read_text(encoding="utf-8"))
