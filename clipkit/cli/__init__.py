"""The command line: one file a verb. `main` turns errors into one sentence and an exit code."""

import os
import sys
import warnings

import typer

from clipkit.cli.classify import classify
from clipkit.cli.convert import convert
from clipkit.cli.data import app as data
from clipkit.cli.embed import embed
from clipkit.cli.evaluate import evaluate
from clipkit.cli.interpolate import interpolate
from clipkit.cli.label import label
from clipkit.cli.mine import mine
from clipkit.cli.models import app as models
from clipkit.cli.recipes import app as recipes
from clipkit.cli.search import search
from clipkit.cli.store import app as store
from clipkit.cli.train import train
from clipkit.errors import ClipkitError, Interrupted

app = typer.Typer(
    name="clipkit",
    help="Fine-tune, use and export CLIP-style image-text models.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 cannot be done as asked, 130 interrupted "
    "(128 and the signal's number). "
    "--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("classify")(classify)
app.command("label")(label)
app.command("embed")(embed)
app.command("search")(search)
app.command("mine")(mine)
app.command("interpolate")(interpolate)
app.command("convert")(convert)
app.add_typer(data, name="data")
app.add_typer(store, name="store")
app.add_typer(models, name="models")
app.add_typer(recipes, name="recipes")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; raises SystemExit with the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    if not debug:
        _quiet()
    try:
        code = app([word for word in given if word != "--debug"], standalone_mode=False)
    except typer.Abort:  # what Ctrl-C becomes
        _say("interrupted")
        raise SystemExit(130) from None
    except Interrupted as error:
        _say(str(error))
        raise SystemExit(128 + error.signal_number) from None
    except (ClipkitError, OSError) as error:
        if debug:
            raise
        _say(f"Error: {error}")
        raise SystemExit(2) from None
    except Exception as error:
        if debug or not hasattr(error, "format_message"):
            raise
        _say(f"Error: {error.format_message()}")  # a wrong option or a missing argument
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _quiet() -> None:
    """Keep what libraries have to say to themselves off the terminal."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
