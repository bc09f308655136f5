from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertTokenizerFast

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters
from clipkit.models.low_rank import LowRank, adapt
from tests.models.small import agreement, open_clip_model


@pytest.mark.parametrize("inference", [True, False])
def test_attention_alone_is_adapted_on_its_fast_path_too(inference: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 5, 8)
    before = layer(x)
    for module, name in (
        (layer.self_attn, "in_proj_weight"),
        (layer.self_attn.out_proj, "weight"),
        (layer.linear1, "weight"),
    ):
        adapt(module, name, rank=2, alpha=4.0)
        with torch.no_grad():
            module.get_parameter(f"lora_weights.{name}.lora_B").normal_()
    slow = layer(x).detach()
    assert (slow - before).abs().max() > 0.01
    with torch.inference_mode(inference):
        torch.testing.assert_close(layer(x), slow, rtol=1e-5, atol=1e-5)


def test_a_low_rank_change() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    low_rank = LowRank(weight, rank=2, alpha=4.0)
    assert torch.equal(low_rank(weight), weight)
    nn.init.normal_(low_rank.lora_B)
    change = (low_rank(weight) - weight).flatten(1)
    assert torch.linalg.matrix_rank(change) == 2
    torch.testing.assert_close(change, 2.0 * low_rank.lora_B[0] @ low_rank.lora_A[0])


def gradients(model: DualEncoder) -> list[Tensor]:
    """Return something computed with a model, and its gradients by the adapters."""
    model.zero_grad()
    value = agreement(model)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in lora_parameters(model) if p.grad is not None)]


def adapted_model(tokenizer: BertTokenizerFast) -> DualEncoder:
    model = open_clip_model(tokenizer)
    add_lora(model, rank=2, layers=["attention"])
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.normal_(std=0.2)
    return model


def test_training_computes_what_evaluation_does(
    tokenizer: BertTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the adapted weights and by what is low in rank: features and gradients are the same."""
    model = adapted_model(tokenizer)
    expected = gradients(model.eval())

    def whole(self: LowRank, weight: Tensor) -> Tensor:
        raise AssertionError("a weight was computed whole")

    monkeypatch.setattr(LowRank, "forward", whole)
    found = gradients(model.train())
    assert len(found) == len(expected) == 1 + len(lora_parameters(model))
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() < 1e-4 * other.norm()


@pytest.mark.parametrize(
    "settings",
    [
        {"need_weights": True},
        {"key_padding_mask": torch.arange(5).expand(2, 5) > 3},
        {"is_causal": True, "attn_mask": torch.full((5, 5), -torch.inf).triu(1)},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
        {"attn_mask": torch.randn(5, 5)},
    ],
)
def test_attention_that_is_asked_for_more(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    parts: list[tuple[nn.Module, str]] = [(module, "in_proj_weight"), (module.out_proj, "weight")]
    for part, name in parts:
        adapt(part, name, rank=2, alpha=4.0)
        nn.init.normal_(part.get_parameter(f"lora_weights.{name}.lora_B"))
    x, other = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    told = {"need_weights": False, **settings}
    for seen in (x, other):
        expected = module.eval()(x, seen, seen, **told)
        found = module.train()(x, seen, seen, **told)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
        assert (found[1] is None) == (expected[1] is None)
    by_place = (x, x, x, None, False, torch.randn(5, 5))
    expected, found = module.eval()(*by_place), module.train()(*by_place)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)


def test_dropout_of_attention_stays() -> None:
    """It is of the probabilities, which the usual way drops."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True).train()
    adapt(module, "in_proj_weight", rank=2, alpha=4.0)
    x = torch.randn(2, 5, 8)
    first, second = (module(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.allclose(first, second)
