from pathlib import Path

from clipkit.models import load
from tests.cli.conftest import Run
from tests.models.open_clip_folders import make_folder


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


def test_open_clips_models_by_words(run: Run) -> None:
    found = run("models", "list", "vit-b-32", "laion2b_s34b")
    assert found.code == 0
    assert "open_clip:ViT-B-32 " in found.out
    assert "151 M" in found.out
    assert "laion2b_s34b_b79k" in found.out
    assert "laion400m" not in found.out
    assert "next   clipkit models show open_clip:ViT-B-32/laion2b_s34b_b79k" in found.out
    long = run("models", "list", "--context", 200)
    assert "ViT-B-32 " not in long.out
    assert "parameters" not in run("models", "list").out
    assert run("models", "list", "nothing-like-it").code == 2


def test_a_model_of_open_clip(run: Run, tmp_path: Path) -> None:
    shown = run("models", "show", f"open_clip:{make_folder('quickgelu', tmp_path / 'a')}")
    assert shown.code == 0
    assert "open_clip, QuickGELU" in shown.out
    assert "48 pixels, shortest" in shown.out
