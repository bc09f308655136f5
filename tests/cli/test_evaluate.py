import json
from collections.abc import Callable
from pathlib import Path

from clipkit.models.dual_encoder import DualEncoder
from tests.cli.conftest import Run


def test_captions_and_labels_decide(run: Run, saved: Path, photos: Path, classes: Path) -> None:
    out = photos.parent / "metrics.json"
    result = run("eval", saved, "--data", photos, "--data", classes, "--out", out)
    assert result.code == 0
    assert "text to image" in result.out
    assert "R@10" in result.out
    assert "top1" in result.out
    content = json.loads(out.read_text())
    assert set(content["metrics"]) == {f"{photos} retrieval", f"{classes} zero_shot"}
    assert content["data"][str(photos)].startswith("sha256:")


def test_a_task_that_the_data_does_not_allow(run: Run, saved: Path, classes: Path) -> None:
    result = run("eval", saved, "--data", classes, "--task", "retrieval")
    assert result.code == 2
    assert "no captions that retrieval needs" in result.err
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


def test_several_models_in_each_format(
    run: Run, saved: Path, tmp_path: Path, make_model: Callable[..., DualEncoder], photos: Path
) -> None:
    make_model(1).save(str(tmp_path / "other"))
    result = run("eval", saved, tmp_path / "other", "--data", photos, "--format", "json")
    content = json.loads(result.out)
    assert [score["model"] for score in content["results"]] == [str(saved), str(tmp_path / "other")]
    shown = run("eval", saved, tmp_path / "other", "--data", photos, "--format", "markdown")
    lines = [line for line in shown.out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 * 2
    assert len({line.count("|") for line in lines}) == 1
    share = content["results"][1]["metrics"]["image_to_text_r10"]
    assert f"{100 * share:.1f} % (" in lines[-1]
    table = run("eval", saved, tmp_path / "other", "--data", photos)
    assert "model, data" in table.out
    assert run("eval", saved, "--data", photos, "--format", "tabel").code == 2


def test_one_of_two_that_fails_gives_1(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    result = run("eval", saved, "no_such", "--data", photos, "--data", "no_data", "--out", out)
    assert result.code == 1
    assert result.err.count("failed: ") == 2
    assert "R@10" in result.out
    assert len(json.loads(out.read_text())["failures"]) == 2
    again = run("eval", saved, "--data", photos, "--out", out)
    assert again.code == 0
    assert "1 of 1 scores were in" in again.out
    assert json.loads(out.read_text())["failures"] == []


def test_linear_probe_geometry_and_details(run: Run, saved: Path, classes: Path) -> None:
    words = ("eval", saved, "--data", classes, "--task", "linear_probe", "--task", "geometry")
    assert "give --train" in run(*words).err
    details = classes.parent / "details"
    result = run(*words, "--train", classes, "--details", details)
    assert result.code == 0
    for title in ("Linear probe", "Geometry", "penalty", "negative", "effective"):
        assert title in result.out
    assert len(list(details.rglob("confusions.csv"))) == 1
