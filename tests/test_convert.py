from pathlib import Path

import pytest
import torch

from clipkit.convert import convert
from clipkit.errors import ConfigError, ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters
from clipkit.models.onnx_export import export_onnx
from tests.models.open_clip_folders import make_folder


@pytest.mark.parametrize("to", ["open_clip", "transformers", "onnx"])
def test_a_conversion_tells_the_largest_difference(to: str, tmp_path: Path) -> None:
    name = f"open_clip:{make_folder('quickgelu', tmp_path / 'a')}"
    done = convert(name, to, tmp_path / "deep" / "out")
    assert done.folder == tmp_path / "deep" / "out"
    assert (done.images, done.texts) == (20, 25)
    assert done.image_difference < 1e-5
    assert done.text_difference < 1e-5
    assert [path.name for path in done.folder.parent.iterdir()] == ["out"]
    with pytest.raises(ConfigError, match="is there already"):
        convert(name, to, done.folder)


def test_adapters_are_merged(tmp_path: Path) -> None:
    model = load(f"open_clip:{make_folder('vit', tmp_path / 'a')}")
    add_lora(model, rank=2)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.normal_(std=0.2)
    done = convert(model, "transformers", tmp_path / "out")
    assert done.image_difference < 1e-5
    assert model.architecture["lora"]
    images = torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
    with torch.inference_mode():
        adapted = model.eval().encode_image(images)
        torch.testing.assert_close(
            load(f"hf:{tmp_path / 'out'}").encode_image(images), adapted, rtol=0, atol=1e-5
        )
        plain = load(f"open_clip:{tmp_path / 'a'}").encode_image(images)
    assert (plain - adapted).abs().max() > 1e-3


def test_other_features_are_no_success(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(changed: DualEncoder, folder: Path) -> None:
        weight = next(changed.image_projection.parameters())
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[0] += 0.1
            export_onnx(changed, folder)
            weight.copy_(kept)

    monkeypatch.setattr("clipkit.convert.export_onnx", wrong)
    with pytest.raises(ModelError, match="gives other image features than the original"):
        convert(model, "onnx", tmp_path / "out", data=str(photos))
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_what_cannot_be_converted(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'transformers'"):
        convert(model, "transformer", tmp_path / "out")
    with pytest.raises(ModelError, match="no models of kind paired_towers"):
        convert(model, "transformers", tmp_path / "out", data=str(photos))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="no model"):
        load("nothing of that name")
