from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from clipkit.models import attention
from clipkit.models.fast_paths import fast_paths

CPU = torch.device("cpu")
Sides = list[Tensor]


def drawn(*, keys: int = 9, batch: int = 5) -> Sides:
    """Queries, keys and values in bfloat16, laid out as projections give them."""
    torch.manual_seed(0)
    made = [torch.randn(batch, n, 3, 16).bfloat16().transpose(1, 2) for n in (9, keys, keys)]
    return [side.requires_grad_() for side in made]


def by_the_formula(sides: Sides, mask: Tensor | None, scale: float) -> list[Tensor]:
    """Attention and its gradients in float64, written from the definition."""
    query, key, value = (side.detach().double().requires_grad_() for side in sides)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scale
    if mask is not None:
        scores = scores + mask.double()
    powers = scores.exp()
    out = torch.einsum("bhqk,bhkd->bhqd", powers / powers.sum(-1, keepdim=True), value)
    out.sin().sum().backward()
    return [out.detach(), *(side.grad for side in (query, key, value))]  # type: ignore[list-item]


def attended(sides: Sides, **settings: Any) -> list[Tensor]:
    """The same as `scaled_dot_product_attention` gives it now."""
    for side in sides:
        side.grad = None
    query, key, value = sides
    out = scaled_dot_product_attention(query, key, value, **settings)
    out.float().sin().sum().backward()
    return [out.detach(), *(side.grad for side in sides)]  # type: ignore[list-item]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grow by one for each part of a batch whose probabilities clipkit computes."""
    seen: list[int] = []
    weights = attention._weights

    def counted(*given: Any) -> Tensor:
        seen.append(1)
        return weights(*given)

    monkeypatch.setattr(attention, "_weights", counted)
    return seen


def masks() -> dict[str, Tensor | None]:
    causal = torch.full((9, 9), -torch.inf).triu(1)
    return {
        "none": None,
        "causal": causal,
        "bfloat16": causal.bfloat16(),
        "each": torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(1)),
        "padding": torch.zeros(5, 1, 1, 9).masked_fill(torch.arange(9) > 6, -torch.inf),
        "truth": torch.ones(9, 9, dtype=torch.bool).tril(),
    }


@pytest.mark.parametrize("part", [1, 600, 2**18])
@pytest.mark.parametrize("name", list(masks()))
def test_values_and_gradients_follow_the_formula(
    name: str, part: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No farther off than bfloat16 is, and no farther than PyTorch's own."""
    monkeypatch.setattr(attention, "PART", part)
    sides, mask = drawn(), masks()[name]
    added = mask
    if mask is not None and mask.dtype == torch.bool:
        added = torch.zeros(9, 9).masked_fill(~mask, -torch.inf)
    theirs = attended(sides, attn_mask=mask)
    assert not calls
    with fast_paths(CPU):
        mine = attended(sides, attn_mask=mask)
    assert len(calls) == 2 * {1: 5, 600: 3, 2**18: 1}[part]
    for own, other, exact in zip(mine, theirs, by_the_formula(sides, added, 0.25), strict=True):
        assert own.dtype == torch.bfloat16
        error = ((own.double() - exact).norm() / exact.norm()).item()
        assert error < 0.006
        assert error < 1.5 * ((other.double() - exact).norm() / exact.norm()).item()


def test_other_keys_and_another_scale(calls: list[int]) -> None:
    sides = drawn(keys=4)
    with fast_paths(CPU):
        mine = attended(sides, scale=0.7)
    assert calls
    for own, exact in zip(mine, by_the_formula(sides, None, 0.7), strict=True):
        assert ((own.double() - exact).norm() / exact.norm()).item() < 0.006


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout_p": 0.5},
        {"is_causal": True},
        {"attn_mask": torch.zeros(9, 9, requires_grad=True)},
        {"attn_mask": torch.zeros(9, 9).index_fill(0, torch.tensor([2]), -torch.inf)},
    ],
)
def test_what_is_not_the_same_is_left_to_pytorch(
    settings: dict[str, Any], calls: list[int]
) -> None:
    sides = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        expected = attended(sides, **settings)
        torch.manual_seed(1)
        with fast_paths(CPU):
            found = attended(sides, **settings)
    assert not calls
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_long_inputs_are_left_to_pytorch(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONGEST", 8)
    with torch.autocast("cpu", torch.bfloat16), fast_paths(CPU):
        attended(drawn())
    assert not calls


def test_float32_is_left_to_pytorch(calls: list[int]) -> None:
    with torch.autocast("cpu", torch.bfloat16), fast_paths(CPU):
        single = [side.detach().float().requires_grad_() for side in drawn()]
        attended(single)
    assert not calls


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", ["none", "causal", "heads"])
@pytest.mark.parametrize("whom", ["itself", "another"])
def test_multi_head_attention(whom: str, mask: str, bias: bool, calls: list[int]) -> None:
    """The module's own computation in float32 is what both are compared with."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 2, bias=bias, batch_first=True).train()
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=0.3)
    query = torch.randn(4, 9, 32)
    seen = query if whom == "itself" else torch.randn(4, 9, 32)
    causal = torch.full((9, 9), -torch.inf).triu(1)
    heads = causal + torch.randn(8, 9, 9)
    told = {"none": None, "causal": causal, "heads": heads}[mask]

    def run() -> list[Tensor]:
        module.zero_grad()
        first = query.clone().requires_grad_()
        second = first if seen is query else seen.clone().requires_grad_()
        out, weights = module(first, second, second, need_weights=False, attn_mask=told)
        assert weights is None
        out.float().sin().sum().backward()
        gradients = [value.grad for value in (first, second, *module.parameters())]
        return [out.detach().float(), *gradients]

    exact = run()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = run()
        assert not calls
        with fast_paths(CPU):
            mine = run()
    assert calls
    for own, other, right in zip(mine, theirs, exact, strict=True):
        error = (own - right).norm() / right.norm()
        assert error < 0.04
        assert error < 1.5 * (other - right).norm() / right.norm()


@pytest.mark.parametrize(
    "settings", [{"need_weights": True}, {"key_padding_mask": torch.zeros(4, 9).bool()}]
)
def test_multi_head_attention_that_is_asked_for_more(
    settings: dict[str, Any], calls: list[int]
) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 2, batch_first=True).train()
    query = torch.randn(4, 9, 32)
    told = {"need_weights": False, **settings}
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(query, query, query, **told)
        with fast_paths(CPU):
            found = module(query, query, query, **told)
    assert torch.equal(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_inference(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask keeps the module off its own fast path, which is as fast."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 2, batch_first=True).eval().to(kind)
    query = torch.randn(4, 9, 32).to(kind)
    mask = torch.full((9, 9), -torch.inf).triu(1).to(kind)
    seen: list[bool] = []
    fused = attention.fused_attention

    def watched(tokens: Tensor, *others: Any) -> Tensor:
        seen.append(tokens.is_contiguous())
        return fused(tokens, *others)

    monkeypatch.setattr(attention, "fused_attention", watched)
    with torch.inference_mode():
        expected = module(query, query, query, need_weights=False, attn_mask=mask)[0]
        assert not seen
        with fast_paths(CPU):
            found = module(query, query, query, need_weights=False, attn_mask=mask)[0]
    assert seen == [True]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("tiles", [False, True])
def test_tiles_make_inference_pytorchs_own(
    tiles: bool, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever computes, the values are the formula's; training is ours in either case."""
    monkeypatch.setattr(attention, "multiplies_tiles", lambda: tiles)
    sides, causal = drawn(), masks()["causal"]
    exact = by_the_formula(sides, causal, 0.25)[0]
    query, key, value = sides
    rest = [side.detach() for side in sides]
    with fast_paths(CPU):
        with torch.inference_mode():
            inferred = scaled_dot_product_attention(query, key, value, causal)
        frozen = scaled_dot_product_attention(rest[0], rest[1], rest[2], causal)
        assert len(calls) == (0 if tiles else 2)
        scaled_dot_product_attention(query, key, value, causal)
        assert len(calls) == (1 if tiles else 3)
    for values in (inferred, frozen):
        assert ((values.double() - exact).norm() / exact.norm()).item() < 0.006


def test_tiles_are_what_the_processor_tells() -> None:
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists():
        pytest.skip("tells nowhere")
    assert attention.multiplies_tiles() is (" amx_tile" in cpu.read_text())


def test_towers_of_all_libraries_use_it(calls: list[int]) -> None:
    """As modules of their own, not by our code."""
    import timm
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    for tower in (
        CLIPVisionModel(config),
        timm.create_model("test_vit", num_classes=0, img_size=32),
    ):
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16), fast_paths(CPU):
            tower.train()(torch.randn(2, 3, 32, 32))
        assert len(calls) >= 2
