"""What clipkit writes for transformers is read by transformers itself, with the same features."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.write_open_clip import write_open_clip
from clipkit.models.write_transformers import write_transformers
from tests.models.open_clip_folders import make_folder
from tests.models.test_from_transformers import KINDS
from tests.models.test_from_transformers import make_folder as make_transformers_folder

TEXTS = ["a photo of a cat", "Two dogs, isn't it?  A  red_cup!", "x"]


def compare(model: DualEncoder, folder: Path) -> None:
    """Compare with transformers' own model, tokenizer and methods."""
    theirs = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        TEXTS,
        padding="max_length",
        truncation=True,
        max_length=model.context_length,
        return_tensors="pt",
    )
    images = torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
    with torch.inference_mode():
        expected = model.encode_image(images), model.encode_text(model.tokenize(TEXTS))
        found = (
            theirs.get_image_features(pixel_values=images).pooler_output,
            theirs.get_text_features(
                **{name: tokens[name] for name in tokenizer.model_input_names if name in tokens}
            ).pooler_output,
        )
    for one, other in zip(expected, found, strict=True):
        unit = torch.nn.functional.normalize(other, dim=-1)
        torch.testing.assert_close(one, unit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "quickgelu", "siglip"])
def test_open_clip_models_there_and_back(family: str, tmp_path: Path) -> None:
    model = load(f"open_clip:{make_folder(family, tmp_path / 'a')}")
    name = write_transformers(model, tmp_path / "b")
    compare(model, tmp_path / "b")
    there = load(name)
    assert there.similarity == model.similarity
    back = load(write_open_clip(there, tmp_path / "c"))
    images = torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
    with torch.inference_mode():
        for one in (there, back):
            torch.testing.assert_close(
                one.encode_image(images), model.encode_image(images), rtol=0, atol=1e-5
            )
            torch.testing.assert_close(
                one.encode_text(one.tokenize(TEXTS)),
                model.encode_text(model.tokenize(TEXTS)),
                rtol=0,
                atol=1e-5,
            )
            torch.testing.assert_close(one.logit_scale, model.logit_scale)


@pytest.mark.parametrize("kind", list(KINDS))
def test_transformers_models_are_written_as_they_were(kind: str, tmp_path: Path) -> None:
    model = load(f"hf:{make_transformers_folder(kind, tmp_path / 'a')}")
    write_transformers(model, tmp_path / "b")
    compare(model, tmp_path / "b")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "b", backend="pil")
    assert processor.image_mean == pytest.approx(list(model.preprocessing.mean))


@pytest.mark.parametrize("family", ["resnet", "coca", "convnext", "eva", "roberta", "swin"])
def test_what_transformers_does_not_have(family: str, tmp_path: Path) -> None:
    model = load(f"open_clip:{make_folder(family, tmp_path / 'a')}")
    with pytest.raises(
        ModelError, match=r"it has no model with|has no counterpart|cannot be renamed"
    ):
        write_transformers(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()
