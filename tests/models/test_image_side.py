from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.image_side import load_image_side, save_image_side
from clipkit.models.precision import halve_towers
from clipkit.models.trainable import set_trainable
from tests.models.small import small_model


def pictures(model: DualEncoder) -> torch.Tensor:
    size = model.preprocessing.size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_image_side_encodes_the_same_bits(
    make_model: Callable[..., DualEncoder], tmp_path: Path
) -> None:
    whole = make_model()
    whole.use_similarity("sigmoid")
    save_image_side(whole, tmp_path)
    side = load_image_side(tmp_path)
    with torch.inference_mode():
        assert torch.equal(side.encode_image(pictures(whole)), whole.encode_image(pictures(whole)))
    assert side.fingerprint() == whole.fingerprint()
    assert side.similarity == "sigmoid"
    assert side.logit_bias == whole.logit_bias
    assert not [name for name in side.state_dict() if name.startswith("text_")]


@pytest.mark.parametrize("kind", ["open_clip", "test_vit"])
def test_adapters_are_folded_in(
    kind: str,
    make_model: Callable[..., DualEncoder],
    tokenizer: BertTokenizerFast,
    tmp_path: Path,
) -> None:
    whole = small_model(kind, make_model, tokenizer)
    set_trainable(whole, "lora")
    torch.manual_seed(1)
    for name, parameter in whole.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    whole.eval()
    save_image_side(whole, tmp_path)
    side = load_image_side(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    save_image_side(side, again)
    for one in (side, load_image_side(again)):
        with torch.inference_mode():
            torch.testing.assert_close(
                one.encode_image(pictures(whole)), whole.encode_image(pictures(whole))
            )
        assert one.fingerprint() == whole.fingerprint()


def test_what_it_does_not_do_is_said(model: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "side"
    folder.mkdir()
    save_image_side(model, folder)
    side = load_image_side(folder)
    with pytest.raises(ModelError, match="saved without its text side"):
        side.tokenize(["a red cat"])
    with pytest.raises(ModelError, match="saved without its text side"):
        side.save(str(tmp_path / "no"))
    with pytest.raises(ModelError, match="is the image side of a classifier"):
        load(folder)
    model.save(str(tmp_path / "whole"))
    with pytest.raises(ModelError, match="is a whole model"):
        load_image_side(tmp_path / "whole")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="was changed after"):
        load_image_side(folder)


def test_a_rounded_model_is_refused(make_model: Callable[..., DualEncoder], tmp_path: Path) -> None:
    model = make_model(image="test_vit")
    halve_towers(model)
    with pytest.raises(ModelError, match="precision bf16 and cannot be saved"):
        save_image_side(model, tmp_path)
