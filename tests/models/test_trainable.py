from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertTokenizerFast

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.structure import find_blocks
from clipkit.models.trainable import (
    TRAINABLE,
    LastBlocks,
    Lora,
    WholeTowers,
    set_dropout,
    set_trainable,
)
from tests.models.small import KINDS, TOWERS, agreement, small_model, small_towers

Make = Callable[..., DualEncoder]
WHOLE = {
    "projections": (),
    "image_tower": ("image_tower",),
    "text_tower": ("text_tower",),
    "all": ("image_tower", "text_tower"),
}


@pytest.mark.parametrize("what", sorted(WHOLE))
def test_what_trains_and_what_is_counted(model: DualEncoder, what: str) -> None:
    counts = set_trainable(model, what)
    for part, (trained, frozen) in counts.items():
        parameters = list(getattr(model, part).parameters())
        assert trained + frozen == sum(p.numel() for p in parameters)
        trains = part.endswith("projection") or part in WHOLE[what]
        assert all(p.requires_grad == trains for p in parameters)
        assert (frozen == 0) == trains
    assert model.log_logit_scale.requires_grad


def test_a_later_choice_replaces_an_earlier_one(model: DualEncoder) -> None:
    first = set_trainable(model, "all")
    set_trainable(model, "projections")
    set_trainable(model, LastBlocks(1))
    assert set_trainable(model, "all") == first


@pytest.mark.parametrize("kind", [*KINDS, *TOWERS])
@pytest.mark.parametrize("n", [1, 2])
def test_the_last_blocks_train_and_nothing_below_them(
    kind: str, n: int, make_model: Make, tokenizer: BertTokenizerFast
) -> None:
    model = small_model(kind, make_model, tokenizer)
    counts = set_trainable(model, LastBlocks(n))
    model.train()
    entered: dict[str, bool] = {}
    for tower in ("image_tower", "text_tower"):
        assert 0 < counts[tower][0] < sum(counts[tower])
        blocks = find_blocks(getattr(model, tower))
        for at, (_, block) in enumerate(blocks):
            trains = [p.requires_grad for p in block.parameters()]
            assert all(trains) if at >= len(blocks) - n else not any(trains)
            assert block.training == (at >= len(blocks) - n)

        def note(_: nn.Module, args: Any, kwargs: Any, tower: str = tower) -> None:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
            entered[tower] = any(x.requires_grad or x.grad_fn is not None for x in tensors)

        blocks[-n][1].register_forward_pre_hook(note, with_kwargs=True)
    agreement(model).backward()
    assert entered == {"image_tower": False, "text_tower": False}  # no graph below
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_blocks_of_one_tower(make_model: Make) -> None:
    model = small_towers("test_vit", make_model)
    counts = set_trainable(model, LastBlocks(image=2, text=0))
    assert counts["image_tower"][0] > 0
    assert counts["text_tower"][0] == 0
    with pytest.raises(ConfigError, match="text_tower has 2 blocks, not 3"):
        set_trainable(model, LastBlocks(3))
    model.image_tower = nn.Identity()
    with pytest.raises(ConfigError, match="image_tower has 0 blocks, not 1"):
        set_trainable(model, LastBlocks(1))


def test_frozen_parts_rest_and_their_statistics_stay(model: DualEncoder) -> None:
    model.batch_norm = "train"
    set_trainable(model, LastBlocks(1))
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    agreement(model).backward()
    moved = {n for n, value in model.named_buffers() if not torch.equal(value, before[n])}
    assert moved
    assert all(".layer4." in name for name in moved)
    embeddings = model.get_submodule("text_tower.model.embeddings")
    assert not any(module.training for module in embeddings.modules())
    last = model.get_submodule("text_tower.model.encoder.layer.1")
    assert all(module.training for module in last.modules())


def test_dropout_before_the_first_block_that_trains_is_off(make_model: Make) -> None:
    model = small_towers("test_vit", make_model)
    model.get_submodule("image_tower.model").pos_drop = nn.Dropout(0.5)
    set_trainable(model, LastBlocks(1))
    model.train()
    assert not model.get_submodule("image_tower.model.pos_drop").training
    assert model.get_submodule("image_tower.model.blocks.5.attn.proj_drop").training
    set_trainable(model, "all")
    model.train()
    assert all(module.training for module in model.modules())


def test_frozen_parts_hold_no_gradient(model: DualEncoder) -> None:
    set_trainable(model, "text_tower")
    model.train()
    agreement(model).backward()
    assert all(p.grad is None for p in model.image_tower.parameters())
    assert any(p.grad is not None for p in model.text_tower.parameters())


def test_a_model_without_projections_of_its_own(model: DualEncoder) -> None:
    model.image_projection = model.text_projection = nn.Identity()
    with pytest.raises(ConfigError, match="nothing would train but the logit scale"):
        set_trainable(model, "projections")
    set_trainable(model, WholeTowers(("text_tower",)))


def test_one_may_choose_by_a_function(model: DualEncoder) -> None:
    def norms(model: DualEncoder) -> Iterator[nn.Parameter]:
        return (p for n, p in model.text_tower.named_parameters() if "LayerNorm" in n)

    counts = set_trainable(model, norms)
    assert counts["text_tower"][0] == 5 * 2 * 32


def test_unknown_names_are_suggested(model: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="did you mean 'projections'"):
        set_trainable(model, "projection")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LastBlocks(-1), r"trainable\.n: -1"),
        (lambda: LastBlocks(image=-2), r"trainable\.image: -2"),
        (lambda: Lora(rank=0), r"trainable\.rank: 0"),
        (lambda: Lora(alpha=0.0), r"trainable\.alpha: 0"),
        (lambda: Lora(dropout=1.0), r"trainable\.dropout: 1\.0"),
        (lambda: Lora(layers=()), r"trainable\.layers: is empty"),
        (lambda: Lora(towers=()), r"trainable\.towers: is empty"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make()


def test_every_choice_has_its_defaults(make_model: Make) -> None:
    for name in TRAINABLE:
        assert set_trainable(make_model(), name)["text_projection"][0] > 0


def test_set_dropout(make_model: Make) -> None:
    model = make_model(projection="mlp")
    set_dropout(model, hidden=0.3, image_features=0.5)
    assert isinstance(model.image_projection, Projection)
    assert isinstance(model.text_projection, Projection)
    assert model.image_projection.dropout.p == model.text_projection.dropout.p == 0.3
    assert model.image_projection.feature_dropout.p == 0.5
    assert model.text_projection.feature_dropout.p == 0.0
    with pytest.raises(ConfigError, match=r"text_feature_dropout: 1\.0"):
        set_dropout(model, text_features=1.0)
    model.image_projection = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="Linear has none"):
        set_dropout(model, hidden=0.1)
