"""The same probabilities as the zero-shot pipeline of transformers, where both mean the same."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage
import transformers
from PIL import Image

from clipkit.classify import ZeroShotClassifier
from tests.models.test_from_transformers import make_folder

LABELS = ["cat", "coffee", "red square", "dog"]
TEMPLATE = "a photo of {}"


def pictures() -> list[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    names = ("chelsea.png", "coffee.png", "astronaut.png", "brick.png", "camera.png")
    return [Image.open(io.BytesIO((folder / name).read_bytes())) for name in names]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_probabilities_agree(kind: str, tmp_path: Path) -> None:
    folder = make_folder(kind, tmp_path / kind, length=64)
    pipeline = transformers.pipeline("zero-shot-image-classification", model=str(folder))
    told = pipeline(
        [picture.convert("RGB") for picture in pictures()],
        candidate_labels=LABELS,
        hypothesis_template=TEMPLATE,
    )
    theirs = np.array(
        [[{s["label"]: s["score"] for s in scores}[label] for label in LABELS] for scores in told]
    )
    classifier = ZeroShotClassifier(f"hf:{folder}", LABELS, templates=TEMPLATE)
    ours = classifier.predict_proba(pictures())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    if kind == "clip":
        assert np.ptp(theirs) > 1e-3  # the labels are told apart at all


def test_where_they_differ_on_purpose(tmp_path: Path) -> None:
    """A picture that its camera held upside down, and one with something transparent."""
    folder = make_folder("clip", tmp_path / "clip")
    pipeline = transformers.pipeline("zero-shot-image-classification", model=str(folder))
    cat = pictures()[0].convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    cat.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "down.png", exif=exif)
    classifier = ZeroShotClassifier(f"hf:{folder}", LABELS, templates=TEMPLATE)
    upright = classifier.predict_proba([cat])
    np.testing.assert_array_equal(classifier.predict_proba([tmp_path / "down.png"]), upright)
    clear = cat.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    white = classifier.predict_proba([Image.new("RGB", cat.size, "white")])
    np.testing.assert_array_equal(classifier.predict_proba([tmp_path / "clear.png"]), white)
    (theirs,) = pipeline(
        [str(tmp_path / "clear.png")], candidate_labels=LABELS, hypothesis_template=TEMPLATE
    )
    scores = {score["label"]: score["score"] for score in theirs}
    assert np.abs(white[0] - [scores[label] for label in LABELS]).max() > 1e-6
