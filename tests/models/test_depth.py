from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast

from clipkit.models.depth import levels_from_output
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.structure import TOWERS, TowerName, innermost_blocks, used_from
from clipkit.models.trainable import set_trainable
from tests.models.small import KINDS, small_model, transformers_model

Make = Callable[..., DualEncoder]


def at_level(levels: dict[str, int], level: int) -> set[str]:
    return {name.removeprefix("model.") for name, found in levels.items() if found == level}


@pytest.mark.parametrize("kind", [*KINDS, "clip", "siglip", "test_vit", "test_efficientnet"])
def test_levels_are_what_gradients_reach(
    kind: str, make_model: Make, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    """Cut off before block i of n, gradients reach what is at level n - i or nearer."""
    model = (
        transformers_model(kind, tmp_path)
        if kind in ("clip", "siglip")
        else small_model(kind, make_model, tokenizer)
    )
    for tower in TOWERS:
        levels = levels_from_output(model, tower)
        assert list(levels) == [name for name, _ in model.get_submodule(tower).named_parameters()]
        blocks = innermost_blocks(model.get_submodule(tower))
        used = used_from(model, tower)
        assert all(levels[name] == 0 for name in levels.keys() - used)
        assert max(levels.values()) == len(blocks) + 1
        for at, (_, block) in enumerate(blocks):
            near = {name for name in used if levels[name] <= len(blocks) - at}
            assert used_from(model, tower, block) == near


def test_levels_of_a_vit(make_model: Make) -> None:
    levels = levels_from_output(make_model(image="test_vit"), "image_tower")
    assert at_level(levels, 7) == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
    assert levels["model.blocks.0.mlp.fc1.weight"] == 6
    assert levels["model.blocks.5.norm1.bias"] == 1
    assert at_level(levels, 0) == {"norm.weight", "norm.bias"}


def test_levels_of_a_text_tower(model: DualEncoder) -> None:
    levels = levels_from_output(model, "text_tower")
    assert {name.partition(".")[0] for name in at_level(levels, 3)} == {"embeddings"}
    assert {name.partition(".")[0] for name in at_level(levels, 0)} == {"pooler"}  # not used


def test_blocks_of_stages_and_what_is_between_them(make_model: Make) -> None:
    levels = levels_from_output(make_model(image="test_convnext"), "image_tower")
    assert len({level for name, level in levels.items() if ".blocks." in name}) == 9
    first = levels["model.stages.1.blocks.0.gamma"]
    assert levels["model.stages.1.downsample.1.weight"] == first
    assert levels["model.stages.0.blocks.0.gamma"] == 9
    assert at_level(levels, 10) == {
        f"stem.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")
    }
    assert at_level(levels, 0) == {"head.norm.weight", "head.norm.bias"}


def test_adapters_are_at_their_blocks(make_model: Make, tokenizer: BertTokenizerFast) -> None:
    model = small_model("open_clip", make_model, tokenizer)
    set_trainable(model, "lora")
    for tower, layers in (("image_tower", 2), ("text_tower", 3)):
        assert tower in TOWERS
        trains = {
            name for name, p in model.get_submodule(tower).named_parameters() if p.requires_grad
        }
        levels = levels_from_output(model, tower)
        for name in trains:
            block = int(name.partition("resblocks.")[2].partition(".")[0])
            assert levels[name] == layers - block


@pytest.mark.parametrize("tower", TOWERS)
def test_looking_changes_nothing(model: DualEncoder, tower: TowerName) -> None:
    model.train()
    before, state = model.fingerprint(), torch.get_rng_state()
    levels_from_output(model, tower)
    assert model.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.image_tower.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_tower_without_blocks(model: DualEncoder) -> None:
    model.image_tower = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(64))
    model.image_tower(torch.zeros(1, 3, 32, 32))
    assert levels_from_output(model, "image_tower") == {"1.weight": 0, "1.bias": 0}
