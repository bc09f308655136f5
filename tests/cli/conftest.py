"""The command line, run as a user runs it but in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipkit.cli import main
from clipkit.models.dual_encoder import DualEncoder


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; its sentence may be wrapped nowhere."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Result:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def saved(model: DualEncoder, tmp_path: Path) -> Path:
    """A tiny model in a folder."""
    model.save(str(tmp_path / "tiny"))
    return tmp_path / "tiny"
