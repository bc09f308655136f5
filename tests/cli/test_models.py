from pathlib import Path

from clipkit.models import load
from tests.cli.conftest import Run


def test_the_list_and_one_of_it(run: Run, saved: Path) -> None:
    assert "starter" in run("models").out
    shown = run("models", "show", saved)
    assert shown.code == 0
    assert load(saved).fingerprint() in shown.out
    assert "16 tokens" in shown.out


def test_what_is_not_there(run: Run) -> None:
    result = run("models", "show", "startr")
    assert result.code == 2
    assert "did you mean 'starter'" in result.err
