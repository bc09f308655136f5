import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from clipkit.classify import ZeroShotClassifier
from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder

COLOURS = ["red", "green", "blue"]


def used(model: DualEncoder, photos: Path, other: Any, adapt: str) -> ZeroShotClassifier:
    """Make a classifier that was fitted and calibrated."""
    files = [photos / f"{colour}{n}.png" for colour in COLOURS for n in range(3)]
    truth = [colour for colour in COLOURS for _ in range(3)]
    made = ZeroShotClassifier(
        model,
        {"red": ["red", "a red cat"], "green": "green", "blue": "blue"},
        templates=["a {}", "the {}"],
        other=other,
        adapt=adapt,  # type: ignore[arg-type]
    )
    if adapt != "none":
        made.fit(files, truth)
        if isinstance(other, float):
            files, truth = [*files, photos / "white0.png"], [*truth, "other"]
        made.calibrate(files, truth)
    return made


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("other", "adapt"),
    [(None, "none"), (0.4, "cache"), (["a photo", "a dog"], "linear"), ("a photo", "none")],
)
def test_what_is_read_answers_the_same(
    make_model: Callable[..., DualEncoder],
    photos: Path,
    tmp_path: Path,
    other: Any,
    adapt: str,
    similarity: str,
) -> None:
    model = make_model()
    model.use_similarity(similarity)  # type: ignore[arg-type]
    made = used(model, photos, other, adapt)
    made.save(tmp_path / "kept")
    read = ZeroShotClassifier.load(tmp_path / "kept")
    assert read.classes_.tolist() == made.classes_.tolist()
    np.testing.assert_array_equal(read.predict_proba(photos), made.predict_proba(photos))
    assert read.predict(photos).tolist() == made.predict(photos).tolist()
    assert (read.few_shot_, read.calibration_) == (made.few_shot_, made.calibration_)
    assert repr(read).partition(", ")[2] == repr(made).partition(", ")[2]
    read.save(tmp_path / "again")
    again = ZeroShotClassifier.load(tmp_path / "again")
    np.testing.assert_array_equal(again.predict_proba(photos), made.predict_proba(photos))


def test_the_text_side_is_not_in_it(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    ZeroShotClassifier(model, COLOURS).save(folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert files == [
        "classifier.json",
        "head.safetensors",
        "model",
        "model/clipkit.json",
        "model/model.safetensors",
    ]
    assert not [n for n in load_file(folder / "model/model.safetensors") if n.startswith("text_")]
    read = ZeroShotClassifier.load(folder)
    with pytest.raises(ModelError, match="saved without its text side, with the labels that it"):
        read.set_params(labels=["cat", "dog"]).predict(photos)


def test_a_new_process_reads_it(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    made = ZeroShotClassifier(model, COLOURS)
    made.save(tmp_path / "kept")
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    code = (
        "import sys; from clipkit import ZeroShotClassifier;"
        "print(*ZeroShotClassifier.load(sys.argv[1]).predict(sys.argv[2]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "moved", photos],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == made.predict(photos).tolist()


def test_what_cannot_be_written_or_read(model: DualEncoder, tmp_path: Path) -> None:
    made = ZeroShotClassifier(model, COLOURS)
    folder = tmp_path / "kept"
    made.save(folder)
    made.save(folder)  # in place of itself
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file: name a folder"):
        made.save(tmp_path / "file")
    with pytest.raises(ModelError, match="files that are no classifier: choose another"):
        made.save(tmp_path)
    with pytest.raises(ModelError, match=r"is no classifier: it has no classifier\.json"):
        ZeroShotClassifier.load(tmp_path)
    for name, change, words in (
        ("head.safetensors", b"x", "changed after it was saved"),
        ("model/model.safetensors", None, "lacks its file model/model.safetensors"),
        ("classifier.json", b"{}", "is damaged: KeyError"),
        ("classifier.json", b"[", "is damaged: JSONDecodeError"),
        ("classifier.json", json.dumps({"format": 9}).encode(), "has format 9; this clipkit"),
    ):
        made.save(folder)
        if change is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(change)
        with pytest.raises(ModelError, match=words):
            ZeroShotClassifier.load(folder)


def test_one_without_its_text_side_is_fitted_once(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    files = [photos / f"{colour}{n}.png" for colour in COLOURS for n in range(2)]
    truth = [colour for colour in COLOURS for _ in range(2)]
    made = ZeroShotClassifier(model, COLOURS, other="a photo")
    made.save(tmp_path / "kept")
    read = ZeroShotClassifier.load(tmp_path / "kept").fit(files, truth)
    expected = made.fit(files, truth).predict_proba(files)
    np.testing.assert_allclose(read.predict_proba(files), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="without its text side"):
        read.fit(files, truth)  # that would begin from the texts
    np.testing.assert_allclose(read.predict_proba(files), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"red": ["red"]}}, "1 labels for 3 rows of weights"),
        ({"temperature": {"value": 0.0, "shift": 0.0}}, "temperature 0.0"),
        ({"temperature": {"value": "a", "shift": 0.0}}, "Type"),
        ({"threshold": "x"}, "Type"),
        ({"threshold": 2.0}, "threshold 2.0"),
    ],
    ids=["labels", "zero", "text", "threshold", "above"],
)
def test_what_a_hand_changed_is_told(
    model: DualEncoder, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    ZeroShotClassifier(model, COLOURS).save(tmp_path)
    told = tmp_path / "classifier.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), **change}))
    with pytest.raises(ModelError, match=f"is damaged: .*{words}"):
        ZeroShotClassifier.load(tmp_path)
