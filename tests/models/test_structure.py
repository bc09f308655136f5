from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from transformers import BertTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.structure import find_blocks, innermost_blocks, look, run_once, used_from
from tests.models.small import open_clip_model, small_towers

Make = Callable[..., DualEncoder]


@pytest.mark.parametrize(
    ("name", "blocks", "inner"),
    [
        ("test_vit", 6, 6),
        ("test_resnet", 4, 4),  # of two types, in rows of one
        ("test_efficientnet", 5, 5),
        ("test_convnext", 4, 9),  # stages, and the blocks in them
        ("swin_tiny_patch4_window7_224", 4, 12),
    ],
)
def test_blocks_of_timm(name: str, blocks: int, inner: int) -> None:
    with torch.device("meta"):
        tower = timm.create_model(name, num_classes=0)
    assert len(find_blocks(tower)) == blocks
    assert len(innermost_blocks(tower)) == inner


def test_blocks_of_open_clip_and_transformers(tokenizer: BertTokenizerFast) -> None:
    vit = open_clip_model(tokenizer)
    names = [name for name, _ in find_blocks(vit.text_tower)]
    assert names == [f"model.transformer.resblocks.{n}" for n in range(3)]
    resnet = open_clip_model(tokenizer, "open_clip_resnet")
    names = [name.removeprefix("model.") for name, _ in find_blocks(resnet.image_tower)]
    assert names == ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    config = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    siglip = SiglipVisionModel(SiglipVisionConfig(**config, num_hidden_layers=2))
    assert [name for name, _ in find_blocks(siglip)] == ["encoder.layers.0", "encoder.layers.1"]


def test_what_has_no_blocks() -> None:
    assert find_blocks(nn.Linear(2, 2)) == []
    assert find_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []


def test_a_stem_is_no_block() -> None:
    def unit(width: int) -> nn.Module:
        return nn.TransformerEncoderLayer(width, 1, width)

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

    tower = nn.Module()
    tower.stem = nn.Sequential(Stem(), Stem(), Stem(), Stem())
    tower.layers = nn.ModuleList([unit(8), unit(8), unit(8)])
    assert [name for name, _ in find_blocks(tower)] == ["layers.0", "layers.1", "layers.2"]


def test_what_is_attention_and_what_is_called(model: DualEncoder) -> None:
    seen = look(model, "text_tower")
    layer = "model.encoder.layer.1"
    assert f"{layer}.attention.self" in seen.attention
    assert f"{layer}.intermediate" not in seen.attention
    assert f"{layer}.attention.self.query" in seen.called
    assert "model.pooler.dense" in seen.called
    assert not look(model, "image_tower").attention


def test_fused_attention_does_not_call_its_layers(tokenizer: BertTokenizerFast) -> None:
    model = open_clip_model(tokenizer)
    seen = look(model, "image_tower")
    block = "model.transformer.resblocks.0"
    assert f"{block}.attn" in seen.attention
    assert f"{block}.attn.out_proj" not in seen.called
    assert f"{block}.mlp.c_fc" in seen.called


def test_looking_changes_nothing(model: DualEncoder) -> None:
    before = model.fingerprint()
    model.train()
    required = [parameter.requires_grad for parameter in model.parameters()]
    look(model, "image_tower")
    used_from(model, "image_tower", find_blocks(model.image_tower)[-1][1])
    assert model.fingerprint() == before
    assert model.training
    assert model.image_tower.training
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_parameters_from_a_block_on(make_model: Make) -> None:
    model = small_towers("test_vit", make_model)
    used = used_from(model, "image_tower", find_blocks(model.image_tower)[-1][1])
    names = [name for name, _ in model.image_tower.named_parameters()]
    expected = {n for n in names if n.startswith(("model.blocks.5.", "model.norm."))}
    assert used == expected
    assert used_from(model, "image_tower") == set(names)
    text = used_from(model, "text_tower", find_blocks(model.text_tower)[-1][1])
    assert text  # and of BERT not the pooler, which masked pooling does not use
    assert all(name.startswith("model.encoder.layer.1.") for name in text)


def test_run_once_gives_features(model: DualEncoder) -> None:
    for tower in ("image_tower", "text_tower"):
        assert run_once(model, tower).shape == (1, model.dim)
