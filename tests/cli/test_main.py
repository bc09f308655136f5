"""Help, exit codes, and what every command has in common."""

import subprocess
import sys

import pytest
import typer

from clipkit import cli
from clipkit.errors import ConfigError
from tests.cli.conftest import Run

COMMANDS = [
    "train",
    "eval",
    "classify",
    "label",
    "embed",
    "search",
    "mine",
    "interpolate",
    "data",
    "models",
    "recipes",
]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_of_every_command(run: Run, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.code == 0
    assert "Usage:" in result.out
    for name in COMMANDS if not command else []:
        assert name in result.out


def test_wrong_usage_is_a_sentence(run: Run) -> None:
    for words in (
        ["tran"],
        ["train"],
        ["train", "x", "--no-such"],
        ["search", "x", "y", "-k", "z"],
    ):
        result = run(*words)
        assert result.code == 2
        assert result.err.startswith("Error: ")
        assert "Traceback" not in result.err
        assert len(result.err.splitlines()) == 1


def test_ctrl_c_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(interrupted)
    monkeypatch.setattr(cli, "app", app)
    assert run().code == 130


def test_debug_shows_the_traceback(run: Run) -> None:
    plain = run("recipes", "show", "nothing")
    assert (plain.code, plain.err.splitlines()) == (2, [plain.err.strip()])
    assert plain.err.startswith("Error: no recipe 'nothing'")
    with pytest.raises(ConfigError, match="no recipe 'nothing'"):
        cli.main(["recipes", "show", "nothing", "--debug"])


def test_python_m_clipkit() -> None:
    command = [sys.executable, "-m", "clipkit", "data", "info", "openmojy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: no data 'openmojy'")
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_is_a_sentence(
    run: Run, saved: object, photos: object
) -> None:
    result = run("eval", saved, "--data", photos, "--out", "/no/such/folder/metrics.json")
    assert result.code == 2
    assert "No such file or directory" in result.err
