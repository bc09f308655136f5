"""Image processors: what can be said of them, and what is refused by its name."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, Siglip2ImageProcessor

from clipkit.models.image_processors import read_preprocessing
from clipkit.types import Preprocessing
from tests.models.test_from_transformers import edit, make_folder, refused


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A tiny CLIP's folder, to be spoiled."""
    return make_folder("clip", tmp_path / "clip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_resize": False}, "do_resize = False"),
        ({"resample": 1}, "resample = 1"),
        ({"do_center_crop": False}, "do_center_crop = False"),
        ({"do_pad": True}, "do_pad = True"),
        ({"size": {"shortest_edge": 20}}, "size = {'shortest_edge': 20}"),
        ({"size": {"height": 40, "width": 32}}, "size = {'height': 40, 'width': 32}"),
        ({"size": {"height": 30, "width": 30}}, "crop_size = {'height': 32, 'width': 32}"),
        ({"crop_size": {"height": 32, "width": 24}}, "crop_size = {'height': 32, 'width': 24}"),
        ({"image_processor_type": "Owlv2ImageProcessor"}, "do_pad = True"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "max_num_patches = 256"),
        ({"image_processor_type": "BitImageProcessor", "resample": 0}, "resample = 0"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessorPil has code"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "include_top = True"),
        ({"crop_size": {"height": 24, "width": 24}}, "cannot use its image tower"),
    ],
)
def test_images_prepared_in_other_ways(clip: Path, changes: dict[str, Any], words: str) -> None:
    edit(clip / "preprocessor_config.json", **changes)
    assert words in refused(clip)


def test_naflex_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("siglip2").save_pretrained(tmp_path)
    Siglip2ImageProcessor().save_pretrained(tmp_path)
    assert "max_num_patches = 256" in refused(tmp_path)


def test_the_settings_of_old_checkpoints(clip: Path) -> None:
    """What OpenAI's own `preprocessor_config.json` says, and no more."""
    settings = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    }
    (clip / "preprocessor_config.json").write_text(json.dumps(settings))
    found = read_preprocessing(str(clip))
    assert (list(found.mean), list(found.std)) == (settings["image_mean"], settings["image_std"])
    assert found == Preprocessing(224, found.mean, found.std, crop="floor")


def test_a_missing_image_processor(clip: Path) -> None:
    (clip / "preprocessor_config.json").unlink()
    assert "cannot use its image processor" in refused(clip)
