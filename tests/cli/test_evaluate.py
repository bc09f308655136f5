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


def test_rows_that_cannot_be_used_are_told(run: Run, saved: Path, corrupt: Path) -> None:
    out = corrupt.parent / "metrics.json"
    result = run("eval", saved, "--data", corrupt, "--out", out)
    assert result.code == 0
    assert "1 row rejected: 1 cannot identify image file" in result.out
    assert json.loads(out.read_text())["rejected"] == {"cannot identify image file": 1}
    listed = (corrupt.parent / "rejects.jsonl").read_text()
    assert json.loads(listed)["id"] == "red1.png"
    (corrupt / "red2.png").write_bytes(b"")
    result = run("eval", saved, "--data", corrupt)
    assert result.code == 2
    assert "max_rejected is 0.01" in result.err
    assert run("eval", saved, "--data", corrupt, "--max-rejected", 0.2).code == 0
