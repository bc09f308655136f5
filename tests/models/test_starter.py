import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.data import load_data
from clipkit.errors import MissingExtraError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.starter import IMAGE_WEIGHTS, STARTER_FOLDER, TEXT_WEIGHTS, starter_classifier


def test_the_shipped_weights_are_small_and_carry_no_tower() -> None:
    sizes = {path.name: path.stat().st_size for path in STARTER_FOLDER.iterdir() if path.is_file()}
    assert sizes["model.safetensors"] < 8_000_000
    assert "README.md" in sizes


def test_its_fingerprint_is_the_one_that_was_recorded(starter: DualEncoder) -> None:
    """Stores that people have would not be known again, were it made in another way."""
    description = json.loads((STARTER_FOLDER / "clipkit.json").read_text())
    assert starter.fingerprint() == description["fingerprint"]


def test_the_starter_knows_everyday_things(starter: DualEncoder) -> None:
    data = load_data("skimage_photos")
    rows = [row for row, s in enumerate(data) if s.label in ("cat", "motorcycle", "cup of coffee")]
    classifier = ZeroShotClassifier(starter, ["cat", "motorcycle", "cup of coffee", "airplane"])
    assert classifier.score([data[r] for r in rows], [str(data[r].label) for r in rows]) == 1.0


def test_the_tower_is_the_classifier_of_its_weights(starter: DualEncoder) -> None:
    """The weights are in the right places: the tower's own classifier knows a cat and a cup."""
    from clipkit.encode import encode_images
    from clipkit.imagenet import imagenet_class_names

    data = load_data("skimage_photos")
    images = [s.image for s in data if s.label in ("cat", "cup of coffee")]
    features, _, _ = encode_images(starter, images, encode=starter.image_tower)
    weight, bias = starter_classifier()
    best = (features @ weight.T + bias).topk(3).indices
    names = [[imagenet_class_names()[i] for i in row] for row in best.tolist()]
    assert any("cat" in name for name in names[0])
    assert any(name in ("espresso", "cup", "coffee mug") for name in names[1])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sha256"):
        replace(TEXT_WEIGHTS, sha256="0" * 64).locate()
    with pytest.raises(ModelError, match="no file"):
        replace(IMAGE_WEIGHTS, file="other.pth").locate()
    with pytest.raises(MissingExtraError, match="starter"):
        replace(IMAGE_WEIGHTS, package="no_such_package").locate()


def test_padding_does_not_change_a_text(starter: DualEncoder) -> None:
    with torch.inference_mode():
        alone = starter.encode_text(starter.tokenize(["a cat"]))
        beside = starter.encode_text(starter.tokenize(["a cat", "a much longer text " * 5]))
    torch.testing.assert_close(alone[0], beside[0], rtol=1e-4, atol=1e-5)
