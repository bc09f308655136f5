import json
from pathlib import Path

import pytest
import torch

from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.storage import read_description
from clipkit.train.interpolate import interpolated
from tests.cli.conftest import Run


@pytest.fixture
def tuned(saved: Path, tmp_path: Path) -> Path:
    """The run folder of the tiny model after some training."""
    model = load(saved)
    torch.manual_seed(1)
    with torch.no_grad():
        for projection in (model.image_projection, model.text_projection):
            for parameter in projection.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save(str(tmp_path / "run" / "model"), training_data=["sha256:abc"])
    return tmp_path / "run"


def test_everything_at_once(
    run: Run, saved: Path, tuned: Path, photos: Path, classes: Path, tmp_path: Path
) -> None:
    out, plot, mixed = tmp_path / "scores.json", tmp_path / "plot.png", tmp_path / "mixed"
    words = ["interpolate", saved, tuned, "--data", classes, "--general", photos, "--alphas", 0.5]
    result = run(*words, "--out", out, "--plot", plot, "--save", mixed, "--alpha", 0.3)
    assert result.code == 0, result.err
    content = json.loads(out.read_text())
    assert [point["alpha"] for point in content["points"]] == [0, 0.3, 0.5, 1]
    assert content["words"] in result.out.splitlines()
    assert content["metrics"] == {
        "data": [f"{classes} zero_shot.top1"],
        "general": [f"{photos} retrieval.mean_recall"],
    }
    base, after = load(saved), load(tuned / "model")
    assert content["models"] == {"base": base.fingerprint(), "tuned": after.fingerprint()}
    assert set(content["data"]) == {str(photos), str(classes)}
    assert plot.stat().st_size > 10_000
    assert f"model  {mixed}  (alpha 0.3)" in result.out
    kept = load(mixed)
    assert kept.fingerprint() == interpolated(base, after, 0.3).fingerprint()
    assert kept.architecture["interpolation"]["alpha"] == 0.3
    assert read_description(mixed)["training_data"] == ["sha256:abc"]


def test_scores_are_those_of_eval(
    run: Run, saved: Path, tuned: Path, photos: Path, classes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    sets = ["--data", photos, "--general", classes, "--templates", "simple"]
    assert run("interpolate", saved, tuned, *sets, "--alphas", "0,1", "--out", out).code == 0
    ends = [point["scores"] for point in json.loads(out.read_text())["points"]]
    for model, scores in zip((saved, tuned / "model"), ends, strict=True):
        words = ["eval", model, "--data", photos, "--data", classes, "--templates", "simple"]
        assert run(*words, "--out", out).code == 0
        found, expected = json.loads(out.read_text())["metrics"], scores["data"] | scores["general"]
        assert set(found) == set(expected)
        for name, values in found.items():  # of batches that are not cut alike
            assert values == pytest.approx(expected[name], rel=1e-6)


def test_the_recommended_model_is_saved(
    run: Run, saved: Path, tuned: Path, photos: Path, classes: Path, tmp_path: Path
) -> None:
    words = ["--data", photos, "--general", photos, "--out", tmp_path / "scores.json"]
    for base, after in ((saved, tuned), (tuned / "model", saved)):  # one way gains, one way loses
        mixed = tmp_path / f"mixed_{after.name}"
        result = run("interpolate", base, after, *words, "--save", mixed)
        content = json.loads((tmp_path / "scores.json").read_text())
        if content["recommended"] is None:
            assert result.code == 2
            assert "no alpha is recommended; give --alpha" in result.err
            assert not mixed.exists()
        else:
            assert result.code == 0
            assert load(mixed).architecture["interpolation"]["alpha"] == content["recommended"]


def test_what_is_refused_before_any_work(
    run: Run, saved: Path, tuned: Path, photos: Path, tmp_path: Path
) -> None:
    words = ["interpolate", saved, tuned, "--data", "no_such", "--general", photos]
    for more, problem in (
        (["--alphas", "0:1"], "'0:1' is neither start:stop:step"),
        (["--alpha", 0.5], "give --save too"),
        (["--alpha", 2, "--save", tmp_path / "mixed"], "2 is not a share"),
        (["--plot", tmp_path / "plot.doc"], "ends in none of .png"),
        (["--save", photos], "holds files that are no clipkit model"),
        (["--save", photos / "red0.txt"], "is a file: name a folder"),
        ([], "no data 'no_such'"),
    ):
        result = run(*words, *more)
        assert result.code == 2
        assert problem in result.err
        assert len(result.err.splitlines()) == 1


def test_models_that_do_not_fit(run: Run, saved: Path, photos: Path, model: DualEncoder) -> None:
    model.long_texts = "pieces"
    other = saved.parent / "other"
    model.save(str(other))
    result = run("interpolate", saved, other, "--data", photos, "--general", photos)
    assert result.code == 2
    assert "long_texts is 'head' in the one and 'pieces' in the other" in result.err


def test_rejected_rows_are_told(
    run: Run, saved: Path, tuned: Path, corrupt: Path, tmp_path: Path
) -> None:
    words = ["interpolate", saved, tuned, "--data", corrupt, "--general", corrupt]
    result = run(*words, "--out", tmp_path / "scores.json", "--max-rejected", 0.2)
    assert result.code == 0
    assert "1 row rejected: 1 cannot identify image file" in result.out
    assert json.loads((tmp_path / "rejects.jsonl").read_text())["id"] == "red1.png"
