from pathlib import Path

import pyarrow.parquet as pq

from clipkit.data import load_data
from tests.cli.conftest import Run
from tests.conftest import square


def test_labels_are_written_and_add_up(
    run: Run, saved: Path, corrupt: Path, tmp_path: Path
) -> None:
    common = ["label", corrupt, "--model", saved, "--labels", "red,green , blue"]
    out = tmp_path / "pseudo"
    result = run(*common, "--top-per-class", 3, "--max-rejected", 0.1, "--out", out)
    assert result.code == 0, result.err
    kept = pq.read_table(out / "labels.parquet").to_pylist()
    left_out = pq.read_table(out / "left_out.parquet").to_pylist()
    assert len(kept) + len(left_out) == 18
    assert f"18 = {len(kept)} with a label + {len(left_out)} left out" in result.out
    assert "1 cannot identify image file" in result.out
    assert "not calibrated: the model's own probability" in result.out
    assert {row["label"] for row in kept} <= {"red", "green", "blue"}
    assert len(load_data(out / "manifest.yaml")) == len(kept)
    info = run("data", "info", out / "manifest.yaml")
    assert info.code == 0


def test_fitted_on_a_few(
    run: Run, saved: Path, photos: Path, classes: Path, tmp_path: Path
) -> None:
    square("red", 77).save(classes / "blue" / "7.png")  # an error to calibrate by
    square("blue", 78).save(classes / "red" / "8.png")
    out = tmp_path / "pseudo"
    result = run("label", photos, "--model", saved, "--fit", classes, "--out", out)
    assert result.code == 0, result.err
    assert "calibrated on 14 images of classes, each left out of a fit" in result.out


def test_what_cannot_be_used(run: Run, saved: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, told in (
        (["--labels", "a,b", "--min-confidence", 2], "min_confidence is a probability from 0 to 1"),
        (["--labels", "a,b", "--labelled", "kept"], "did you mean 'keep'"),
        ([], "labels: give labels, labelled data to fit on, or a saved classifier"),
        (["--labels", "one"], "there is one label only"),
    ):
        result = run("label", photos, "--model", saved, "--out", out, *words)
        assert (result.code, told in result.err) == (2, True), result.err
        assert not out.exists()
