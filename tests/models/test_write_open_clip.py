"""What clipkit writes for open_clip is read by open_clip itself, with the same features."""

import json
from pathlib import Path

import open_clip
import pytest
import torch

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.write_open_clip import write_open_clip
from clipkit.models.write_transformers import write_transformers
from tests.models.open_clip_folders import CAPTIONS, make_folder
from tests.models.test_from_transformers import make_folder as make_transformers_folder


@pytest.mark.parametrize("family", ["vit", "quickgelu", "resnet", "siglip", "eva", "convnext_mlp"])
def test_open_clip_reads_what_was_its_own(family: str, tmp_path: Path) -> None:
    model = load(f"open_clip:{make_folder(family, tmp_path / 'a')}")
    again = write_open_clip(model, tmp_path / "b")
    assert again == f"open_clip:{tmp_path / 'b'}"
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'b'}")
    images = torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
    with torch.inference_mode():
        expected = model.encode_image(images), model.encode_text(model.tokenize(CAPTIONS))
        found = (
            theirs.encode_image(images, normalize=True),
            theirs.encode_text(tokenizer(CAPTIONS), normalize=True),
        )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert theirs.logit_scale.exp().item() == pytest.approx(model.logit_scale.item())


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_clip_of_transformers_keeps_its_activation(quick_gelu: bool, tmp_path: Path) -> None:
    source = make_folder("quickgelu" if quick_gelu else "vit", tmp_path / "a")
    first = load(f"open_clip:{source}")
    second = load(write_transformers(first, tmp_path / "b"))
    write_open_clip(second, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "open_clip_config.json").read_text())["model_cfg"]
    assert bool(config.get("quick_gelu")) == quick_gelu
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'c'}").eval()
    images = torch.randn(2, 3, first.preprocessing.size, first.preprocessing.size)
    with torch.inference_mode():
        torch.testing.assert_close(
            first.encode_image(images),
            theirs.encode_image(images, normalize=True),
            rtol=0,
            atol=1e-5,
        )


def test_what_open_clip_does_not_have(model: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has no models of kind paired_towers"):
        write_open_clip(model, tmp_path / "x")
    align = load(f"hf:{make_transformers_folder('align', tmp_path / 'align')}")
    with pytest.raises(ModelError, match="no models of transformers' type align"):
        write_open_clip(align, tmp_path / "x")
    mixed = load(f"open_clip:{make_folder('roberta', tmp_path / 'roberta')}")
    with pytest.raises(ModelError, match="text tower is transformers'"):
        write_open_clip(mixed, tmp_path / "x")
    assert not (tmp_path / "x").exists()
