from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipkit
from clipkit.classify import ZeroShotClassifier
from clipkit.data import load_data
from clipkit.data.decode import decode_image
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import COLOURS, square

NAMES = ["red", "green", "blue"]


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_calls_write_equal_files(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    out = tmp_path / "pseudo"
    made = []
    for _ in range(2):
        told = clipkit.label(
            corrupt, out, model=model, labels=NAMES, top_per_class=4, max_rejected=0.1
        )
        made.append((told, content(out)))
    assert made[0] == made[1]
    told, files = made[0]
    sheets = [f"sheets/{name}.png" for name, number in told.labels.items() if number]
    expected = ["label.json", "labels.parquet", "left_out.parquet", "manifest.yaml", *sheets]
    assert sorted(files) == sorted(expected)
    assert told.rows == 18 == sum(told.labels.values()) + sum(told.left_out.values())
    assert max(told.labels.values()) <= 4
    assert told.left_out["cannot identify image file"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "pseudo"]
    data = load_data(told.manifest)
    assert data.class_names == tuple(NAMES)
    classifier = ZeroShotClassifier(model, NAMES)
    assert [s.label for s in data] == classifier.predict([s.image for s in data]).tolist()


def test_images_that_are_no_files(model: DualEncoder, tmp_path: Path) -> None:
    rows = []
    for colour in COLOURS:
        stored = BytesIO()
        square(colour).save(stored, "PNG")
        rows.append({"image": stored.getvalue(), "id": colour})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    told = clipkit.label(tmp_path / "rows.parquet", tmp_path / "out", model=model, labels=NAMES)
    data = load_data(told.manifest)
    assert [sample.id for sample in data] == list(COLOURS)
    for sample, colour in zip(data, COLOURS, strict=True):
        assert sample.image is not None
        assert decode_image(sample.image).tobytes() == square(colour).tobytes()


def test_fitted_calibrated_and_saved(
    model: DualEncoder, photos: Path, classes: Path, tmp_path: Path
) -> None:
    square("red", 77).save(classes / "blue" / "7.png")  # an error to calibrate by
    square("blue", 78).save(classes / "red" / "8.png")
    told = clipkit.label(photos, tmp_path / "out", model=model, fit=classes)
    assert list(told.labels) == sorted(COLOURS)
    assert "each left out of a fit" in told.confidence
    by_hand = ZeroShotClassifier(model, sorted(COLOURS)).fit(str(classes))
    by_hand.calibrate()
    data = load_data(told.manifest)
    proba = by_hand.predict_proba(data)
    confidence = [sample.metadata["confidence"] for sample in data]
    assert confidence == pytest.approx(proba.max(1).tolist(), abs=1e-5)
    by_hand.save(tmp_path / "saved")
    again = clipkit.label(photos, tmp_path / "again", model=tmp_path / "saved")
    assert again.labels == told.labels
    assert "before it was saved" in again.confidence


def test_nothing_is_lost_where_it_is_refused(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds files that are no labels"):
        clipkit.label(photos, out, model=model, labels=NAMES)
    assert (out / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ConfigError, match="'kept' is unknown; did you mean 'keep'"):
        clipkit.label(photos, tmp_path / "x", model=model, labelled="kept")  # type: ignore[arg-type]
    told = clipkit.label(photos, tmp_path / "labels", model=model, labels=NAMES)
    before = content(told.folder)
    with pytest.raises(DataError, match="no image gets a label"):
        clipkit.label(photos, told.folder, model=model, labels=NAMES, min_confidence=1.0)
    assert content(told.folder) == before
