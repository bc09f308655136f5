import json
from pathlib import Path

import pytest
import torch

from clipkit.errors import MissingExtraError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.onnx_export import OnnxEncoder, check_onnx, export_onnx

TEXTS = ["a cat", "one red square in the picture", "a photo of a good dog in the white square"]


def test_onnxruntime_gives_the_same_features(model: DualEncoder, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "onnx")
    graphs = OnnxEncoder(tmp_path / "onnx")
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        tokens = model.tokenize((TEXTS * 2)[:batch])
        with torch.inference_mode():
            expected = model.encode_image(images), model.encode_text(tokens)
        torch.testing.assert_close(graphs.encode_image(images), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(graphs.encode_text(tokens), expected[1], rtol=1e-4, atol=1e-5)
    told = json.loads((tmp_path / "onnx" / "clipkit_onnx.json").read_text())
    assert told["logit_scale"] == pytest.approx(model.logit_scale.item())
    assert told["preprocessing"]["size"] == 32
    assert told["tokenizer"]["context_length"] == 16
    assert (tmp_path / "onnx" / "tokenizer" / "tokenizer.json").is_file()
    assert not list((tmp_path / "onnx").glob("*.data"))


def test_what_cannot_be_exported(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.long_texts = "pieces"
    with pytest.raises(ModelError, match="in pieces cannot be exported"):
        export_onnx(model, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"clipkit\[onnx\]"):
        check_onnx()
