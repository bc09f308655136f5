from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models import load, paired_towers
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import ImageTower, TextTower
from tests.conftest import TEXT


@pytest.fixture
def text_folder(tmp_path: Path, tokenizer: BertTokenizerFast) -> Path:
    """A transformers model as its library saves it."""
    folder = tmp_path / "bert"
    config = BertConfig(**{key: value for key, value in TEXT.items() if key != "model_type"})
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_any_timm_and_transformers_pair(text_folder: Path) -> None:
    model = paired_towers("test_vit", str(text_folder), dim=12, pretrained=False)
    assert model.preprocessing.size == 160
    images = torch.randn(2, 3, 160, 160)
    assert model.encode_image(images).shape == (2, 12)
    assert model.context_length == 24
    reference = BertModel.from_pretrained(text_folder).eval()
    tokens = model.tokenize(["a cat", "one red square in the picture"])
    hidden = reference(**tokens).last_hidden_state
    mean = torch.stack(
        [h[m.bool()].mean(0) for h, m in zip(hidden, tokens["attention_mask"], strict=True)]
    )
    torch.testing.assert_close(model.text_tower(tokens), mean, rtol=1e-4, atol=1e-5)


def test_pooling_of_the_first_token(model: DualEncoder) -> None:
    tower = TextTower(dict(TEXT), pooling="cls").eval()
    tokens = model.tokenize(["a cat"])
    hidden = tower.model(**tokens).last_hidden_state
    torch.testing.assert_close(tower(tokens), hidden[:, 0])


def test_unknown_towers_are_sentences(text_folder: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'vit_small_patch16_224'"):
        ImageTower("vit_smal_patch16_224")
    with pytest.raises(ModelError, match="transformers cannot load"):
        paired_towers("test_vit", "/no/such/folder", pretrained=False)
    with pytest.raises(ModelError, match="names one tower"):
        load("towers:test_vit")


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_the_width_of_features_is_right(name: str) -> None:
    tower = ImageTower(name).eval()
    assert tower(torch.randn(1, 3, 160, 160)).shape == (1, tower.features)
