"""What the losses of rows owe, all of them, and what they share."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses import HardestNegativeLoss, MoCoLoss, NTXentLoss, SupConLoss, TripletLoss
from clipkit.losses.rowwise import own_columns
from tests.losses.cases import CASES
from tests.losses.pairs import BATCH, CHUNK_SIZES, assert_equal, inputs, on_ranks, outcome

WHOLE = 1000
each_case = pytest.mark.parametrize("name", CASES)


@each_case
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_the_size_of_chunks_changes_nothing(name: str, chunk_size: int) -> None:
    whole = outcome(CASES[name](WHOLE, torch.float64), inputs())
    assert whole[0] > 0
    assert whole[1].abs().max() > 0
    assert_equal(outcome(CASES[name](chunk_size, torch.float64), inputs()), whole)


@each_case
@pytest.mark.parametrize("count", [2, 3, 2 * BATCH + 2])
def test_ranks_together_give_each_the_whole(name: str, count: int) -> None:
    call = CASES[name](2, torch.float64)
    whole = outcome(call, inputs())
    parts = on_ranks(
        count, lambda share: outcome(lambda *given: call(*given, share=share), inputs())
    )
    for part in parts:
        assert_equal(part, whole)
        assert all(torch.equal(mine, first) for mine, first in zip(part, parts[0], strict=True))


@each_case
def test_float32_inside_half_precision(name: str) -> None:
    call = CASES[name](3, torch.float32)
    given = tuple(x.detach() for x in inputs(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outcome(call, given)
    assert_equal(found, outcome(call, given), tolerance=0)
    first, second, *rest = given
    low = torch.bfloat16
    value, d_first, *_ = outcome(call, (first.to(low), second.to(low), *rest))
    assert (value.dtype, d_first.dtype) == (torch.float32, low)
    rounded = outcome(call, (first.to(low).float(), second.to(low).float(), *rest))
    assert_equal((value,), rounded[:1], tolerance=0)


@each_case
def test_float32_is_close_to_float64(name: str) -> None:
    found = outcome(CASES[name](3, torch.float32), tuple(x.float() for x in inputs()))
    exact = outcome(CASES[name](3, torch.float64), tuple(x.float().double() for x in inputs()))
    assert_equal(found, tuple(x.float() for x in exact), tolerance=2e-5)


@each_case
def test_what_is_no_number_is_not_hidden(name: str) -> None:
    first, second, scale, bias = inputs(torch.float32)
    for row in range(BATCH):
        spoilt = first.detach().clone()
        spoilt[row, 1] = torch.nan
        assert CASES[name](3, torch.float32)(spoilt, second, scale, bias).isnan()


@each_case
def test_without_grad_the_value_is_the_same(name: str) -> None:
    call = CASES[name](3, torch.float64)
    with torch.no_grad():
        value = call(*inputs())
    assert not value.requires_grad
    assert torch.equal(value, call(*inputs()).detach())


@each_case
def test_the_bias_gets_a_gradient_of_zero(name: str) -> None:
    *given, bias = inputs()
    CASES[name](3, torch.float64)(*given, bias).backward()
    assert bias.grad == 0
    assert given[2].grad is not None


@pytest.mark.parametrize(
    ("loss", "fifth"),
    [
        (NTXentLoss(temperature=0.07), None),
        (SupConLoss(temperature=0.07), None),
        (MoCoLoss(dim=5, queue_size=2, temperature=0.07, batch_negatives=True), None),
    ],
    ids=["ntxent", "supcon", "moco"],
)
def test_a_temperature_stands_for_the_scale(loss: torch.nn.Module, fifth: Tensor | None) -> None:
    first, second, scale, _ = inputs()
    fixed = outcome(lambda *x: loss(*x, None, fifth), (first, second, scale))
    loss.temperature = None  # type: ignore[assignment]
    scale = torch.tensor(1 / 0.07, dtype=torch.float64)
    learnt = outcome(lambda *x: loss(*x, None, fifth), (first, second, scale))
    assert_equal(fixed[:3], learnt[:3])
    assert fixed[3] == 0
    assert learnt[3] != 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [NTXentLoss, SupConLoss])
def test_a_temperature_is_above_0(kind: type, temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature must be a number above 0"):
        kind(temperature=temperature)


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [TripletLoss, HardestNegativeLoss])
def test_a_margin_is_above_0(kind: type, margin: float) -> None:
    with pytest.raises(ConfigError, match="margin must be a number above 0"):
        kind(margin=margin)


@pytest.mark.parametrize("kind", [NTXentLoss, SupConLoss, TripletLoss, HardestNegativeLoss])
def test_a_chunk_has_a_row_at_least(kind: type) -> None:
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, not 0"):
        kind(chunk_size=0)


def test_own_columns() -> None:
    own = own_columns(range(1, 3), 4, torch.device("cpu"))
    assert own.nonzero().tolist() == [[0, 1], [1, 2]]


MEASURE = """
import torch
from clipkit.losses import HardestNegativeLoss, MoCoLoss, NTXentLoss, SupConLoss, TripletLoss

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))

def run(batch):
    labels = torch.arange(batch) % 50
    first, second = (torch.randn(batch, 16).requires_grad_() for _ in range(2))
    scale, size = torch.tensor(1.0), {"chunk_size": 64}
    NTXentLoss(**size)(first, second, scale).backward()
    SupConLoss(**size)(first, second, scale, None, labels).backward()
    HardestNegativeLoss(**size)(first, second, scale).backward()
    MoCoLoss(dim=16, queue_size=batch, **size)(first, second, scale).backward()
    for mining in ("batch_hard", "semi_hard", "all"):
        TripletLoss(mining=mining, **size)(first, second, scale, None, labels).backward()

run(64)
before = memory("VmRSS")
run(3072)
print((memory("VmHWM") - before) / (4 * 6144**2))
"""


@pytest.mark.slow
def test_memory_stays_far_below_a_matrix_of_logits() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert float(done.stdout) < 0.5
