import json
from pathlib import Path

from tests.cli.conftest import Run


def test_captions_and_labels_decide(run: Run, saved: Path, photos: Path, classes: Path) -> None:
    out = photos.parent / "metrics.json"
    result = run("eval", saved, "--data", photos, "--data", classes, "--out", out)
    assert result.code == 0
    assert "text to image R@10" in result.out
    assert "top1" in result.out
    content = json.loads(out.read_text())
    assert set(content["metrics"]) == {f"{photos} retrieval", f"{classes} zero_shot"}
    assert content["data"][str(photos)].startswith("sha256:")


def test_a_task_that_the_data_does_not_allow(run: Run, saved: Path, classes: Path) -> None:
    result = run("eval", saved, "--data", classes, "--task", "retrieval")
    assert result.code == 2
    assert "neither captions nor labels" in result.err
    result = run("eval", saved, "--data", classes, "--task", "retreival")
    assert "did you mean 'retrieval'" in result.err
