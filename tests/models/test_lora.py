import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertTokenizerFast

from clipkit.errors import ConfigError, MissingExtraError, ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import (
    add_lora,
    attach_lora,
    lora_parameters,
    lora_state,
    merge_lora,
    split_state,
)
from clipkit.models.trainable import Lora, set_trainable
from tests.models.small import (
    KINDS,
    TOWERS,
    TRANSFORMERS,
    agreement,
    encoded,
    open_clip_model,
    small_model,
    transformers_model,
)

Make = Callable[..., DualEncoder]
BLOCK = "image_tower.model.transformer.resblocks.0"


@torch.no_grad()
def shake(model: DualEncoder, size: float = 0.1) -> None:
    """Let the adapters be as if trained."""
    torch.manual_seed(3)
    for parameter in lora_parameters(model):
        parameter.add_(size * torch.randn_like(parameter))


def differ(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, *TOWERS])
def test_merged_equals_unmerged(kind: str, make_model: Make, tokenizer: BertTokenizerFast) -> None:
    model = small_model(kind, make_model, tokenizer)
    names, types = list(model.state_dict()), [type(module) for module in model.modules()]
    before = encoded(model)
    add_lora(model, rank=2)
    assert differ(encoded(model), before) < 1e-6  # B starts at zero
    shake(model)
    unmerged = encoded(model)
    assert all((a - b).abs().max() > 1e-6 for a, b in zip(unmerged, before, strict=True))
    state, adapters = split_state(model)
    assert list(state) == names
    assert all(not a.equal(torch.zeros_like(a)) for a in adapters.values())
    merged = merge_lora(copy.deepcopy(model))
    assert differ(encoded(merged), unmerged) < 1e-5
    assert list(merged.state_dict()) == names
    assert [type(module) for module in merged.modules()] == types
    assert "lora" not in merged.architecture
    assert "lora" in model.architecture
    assert torch.equal(encoded(model)[0], unmerged[0])  # the copy was merged, not the model


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_models_of_transformers(kind: str, tmp_path: Path) -> None:
    model = transformers_model(kind, tmp_path)
    before = encoded(model)
    counts = set_trainable(model, Lora(rank=2))
    assert all(counts[tower][0] > 0 for tower in ("image_tower", "text_tower"))
    assert differ(encoded(model), before) < 1e-6
    agreement(model).backward()
    assert all(parameter.grad is not None for parameter in lora_parameters(model))
    shake(model)
    unmerged = encoded(model)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(unmerged, before, strict=True))
    assert differ(encoded(merge_lora(model)), unmerged) < 1e-5


@pytest.mark.parametrize("kind", [*KINDS, *TOWERS])
def test_only_adapters_change_in_training(
    kind: str, make_model: Make, tokenizer: BertTokenizerFast
) -> None:
    model = small_model(kind, make_model, tokenizer)
    counts = set_trainable(model, Lora(rank=1))
    adapters = {id(parameter) for parameter in lora_parameters(model)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    losses = []
    for _ in range(5):
        loss = agreement(model)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    names = {name for name, parameter in model.named_parameters() if id(parameter) in adapters}
    after = model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    in_towers = {name for name in moved if name.startswith(("image_tower", "text_tower"))}
    assert in_towers <= names  # a residual branch that starts at zero has no gradient at first
    assert any(name.startswith("image_tower") for name in in_towers)
    assert any(name.startswith("text_tower") for name in in_towers)
    assert "log_logit_scale" in moved
    for tower in ("image_tower", "text_tower"):
        expected = sum(p.numel() for n, p in model.named_parameters() if n in names and tower in n)
        assert counts[tower][0] == expected


def test_fused_attention_equals_the_formula(tokenizer: BertTokenizerFast) -> None:
    """Of q, k and v each has its own A and B; features are those of weights changed by hand."""
    model = open_clip_model(tokenizer)
    add_lora(model, rank=2, alpha=6, layers=["attention"], towers=["image_tower"])
    shake(model)
    reference = open_clip_model(tokenizer)
    adapters = lora_state(model)
    with torch.no_grad():
        for block in range(2):
            attention = f"image_tower.model.transformer.resblocks.{block}.attn"
            fused = reference.get_parameter(f"{attention}.in_proj_weight")
            a = adapters[f"{attention}.in_proj_weight.lora_A"]
            b = adapters[f"{attention}.in_proj_weight.lora_B"]
            for part in range(3):
                fused[part * 32 : part * 32 + 32] += 6 / 2 * b[part] @ a[part]
            out = reference.get_parameter(f"{attention}.out_proj.weight")
            a = adapters[f"{attention}.out_proj.weight.lora_A"]
            b = adapters[f"{attention}.out_proj.weight.lora_B"]
            out.add_(6 / 2 * b[0] @ a[0])
    assert differ(encoded(model), encoded(reference)) < 1e-6


def test_which_layers_are_reached(make_model: Make, tokenizer: BertTokenizerFast) -> None:
    def reached(layers: list[str], towers: list[str]) -> set[str]:
        model = open_clip_model(tokenizer)
        add_lora(model, layers=layers, towers=towers)
        settings = model.architecture["lora"]
        return {*settings["called"], *settings["read"]}

    attention = {f"{BLOCK}.attn.in_proj_weight", f"{BLOCK}.attn.out_proj.weight"}
    mlp = {f"{BLOCK}.mlp.c_fc.weight", f"{BLOCK}.mlp.c_proj.weight"}
    image = ["image_tower"]

    def first(names: set[str]) -> set[str]:
        return {name for name in names if name.startswith(BLOCK)}

    assert first(reached(["attention"], image)) == attention
    assert first(reached(["mlp"], image)) == mlp
    assert first(reached(["attention", "mlp"], image)) == attention | mlp
    assert first(reached(["mlp.c_fc", "in_proj_weight"], image)) == {
        f"{BLOCK}.mlp.c_fc.weight",
        f"{BLOCK}.attn.in_proj_weight",
    }
    assert not first(reached(["attention"], ["text_tower"]))
    towers = make_model()
    add_lora(towers, layers=["attention"], towers=["text_tower"])
    layer = "text_tower.model.encoder.layer.0.attention"
    called = {name for name in towers.architecture["lora"]["called"] if name.startswith(layer)}
    ends = ("self.query", "self.key", "self.value", "output.dense")
    assert called == {f"{layer}.{end}.weight" for end in ends}


def test_grouped_convolutions_are_left_alone(make_model: Make) -> None:
    model = make_model(image="test_efficientnet")
    add_lora(model, towers=["image_tower"])
    for name in model.architecture["lora"]["called"]:
        layer = model.get_submodule(f"{name.removesuffix('.weight')}.base_layer")
        assert getattr(layer, "groups", 1) == 1


def test_dropout_reaches_what_adapters_see_and_only_in_training(model: DualEncoder) -> None:
    set_trainable(model, Lora(dropout=0.5, towers=("text_tower",), layers=("mlp",)))
    shake(model, 0.5)
    for module in model.text_tower.modules():  # what else drops something
        if isinstance(module, nn.Dropout) and module.p == 0.1:
            module.p = 0.0
    tokens = model.tokenize(["a red cat"])
    model.eval()
    still = model.encode_text(tokens)
    assert torch.equal(model.encode_text(tokens), still)
    model.train()
    assert not torch.allclose(model.encode_text(tokens), still)


def test_dropout_that_cannot_be_applied_is_refused(tokenizer: BertTokenizerFast) -> None:
    model = open_clip_model(tokenizer)
    with pytest.raises(ConfigError, match=r"attn\.in_proj_weight is read and not called"):
        add_lora(model, dropout=0.1)
    assert "lora" not in model.architecture
    add_lora(model, dropout=0.1, layers=["mlp"])


def test_what_is_not_there(make_model: Make) -> None:
    model = make_model()
    with pytest.raises(
        ConfigError, match=r"image_tower has no attention; it has image_tower\.model"
    ):
        add_lora(model, layers=["attention"])
    with pytest.raises(ConfigError, match="no tower has 'c_fc'"):
        add_lora(model, layers=["mlp", "c_fc"])
    with pytest.raises(ModelError, match=r"no weight image_tower\.x\.weight"):
        attach_lora(
            model,
            {"rank": 1, "alpha": 1, "dropout": 0, "called": ["image_tower.x.weight"], "read": []},
        )
    add_lora(model)
    with pytest.raises(ConfigError, match="merge them before"):
        add_lora(model)


def test_adapters_that_are_there_train_on(model: DualEncoder) -> None:
    first = set_trainable(model, Lora(rank=2))
    shake(model)
    before = lora_state(model)
    set_trainable(model, "projections")
    assert not any(parameter.requires_grad for parameter in model.text_tower.parameters())
    assert set_trainable(model, Lora(rank=2)) == first
    assert all(torch.equal(value, before[name]) for name, value in lora_state(model).items())
    with pytest.raises(ConfigError, match="has adapters of rank 2"):
        set_trainable(model, Lora(rank=4))


def test_the_fingerprint_follows_the_adapters(model: DualEncoder) -> None:
    seen = {model.fingerprint()}
    add_lora(model, rank=2)
    seen.add(model.fingerprint())
    shake(model)
    seen.add(model.fingerprint())
    model.architecture["lora"]["alpha"] = 3.0
    seen.add(model.fingerprint())
    assert len(seen) == 4


def test_merging_without_adapters_changes_nothing(model: DualEncoder) -> None:
    before = model.fingerprint()
    assert merge_lora(model).fingerprint() == before
    assert lora_state(model) == {}
    assert lora_parameters(model) == []


def test_without_peft_fused_attention_still_works(
    tokenizer: BertTokenizerFast, model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    fused = open_clip_model(tokenizer)
    add_lora(fused, layers=["attention"])
    assert not fused.architecture["lora"]["called"]
    with pytest.raises(MissingExtraError, match=r"clipkit\[lora\]"):
        add_lora(model)
