"""What all losses owe to working block by block: memory, and no work that nobody asked for."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import clipkit.losses
from clipkit.errors import ConfigError
from clipkit.losses import ClipLoss, DistillLoss, Share, SigLipLoss
from tests.losses.pairs import BATCH, inputs, positives

LOSSES = [ClipLoss, SigLipLoss, DistillLoss]


def test_training_is_told_that_work_can_be_shared() -> None:
    assert all(getattr(loss, "shares_work", False) for loss in clipkit.losses.LOSSES.values())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_chunk_has_a_row_at_least(loss: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, not 0"):
        loss(chunk_size=0)


@pytest.mark.parametrize("loss", [ClipLoss(chunk_size=3), SigLipLoss(chunk_size=3)])
def test_gradcheck(loss: nn.Module) -> None:
    assert torch.autograd.gradcheck(lambda *x: loss(*x, positives("positive")), inputs())


class Products(TorchDispatchMode):
    """Counts the multiplications in products of matrices."""

    multiplications: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            first, second = args[-2:]
            self.multiplications += first.shape[0] * first.shape[1] * second.shape[1]
        return func(*args, **(kwargs or {}))


def products(loss: nn.Module, given: tuple[Tensor, ...], share: Share | None = None) -> float:
    """Products of matrices, as multiples of that of all images with all texts."""
    counter: Any = Products()  # type: ignore[no-untyped-call]
    with counter:
        loss(*given, share=share)
    return float(counter.multiplications) / (BATCH * BATCH * given[0].shape[1])


def needing(*names: str) -> tuple[Tensor, ...]:
    """Inputs of which only some need a gradient."""
    told = ("image", "text", "scale", "bias")
    return tuple(
        x.detach().requires_grad_(name in names) for name, x in zip(told, inputs(), strict=True)
    )


@pytest.mark.parametrize(
    ("names", "pulls"), [((), 0), (("image",), 1), (("text",), 1), (("image", "text", "scale"), 2)]
)
def test_only_the_gradients_that_are_needed_are_worked_out(
    names: tuple[str, ...], pulls: int
) -> None:
    again = (BATCH - 1) / BATCH if names else 0  # the last row of logits is still there
    assert products(ClipLoss(chunk_size=1), needing(*names)) == 1 + pulls + again
    assert products(SigLipLoss(chunk_size=1), needing(*names)) == 1 + pulls


@pytest.mark.parametrize("loss", [ClipLoss(), SigLipLoss()])
def test_without_grad_there_is_one_product(loss: nn.Module) -> None:
    with torch.no_grad():
        assert products(loss, inputs()) == 1


def test_one_block_is_worked_out_once() -> None:
    assert products(ClipLoss(), inputs()) == 3


@pytest.mark.parametrize("loss", [ClipLoss(chunk_size=2), SigLipLoss(chunk_size=2)])
def test_a_share_is_that_much_of_the_work(loss: nn.Module) -> None:
    share = Share(1, 4, torch.clone)
    assert products(loss, inputs(), share) <= products(loss, inputs()) / 4


def test_backward_twice_gives_the_gradient_twice() -> None:
    image, text, scale, _ = inputs()
    value = ClipLoss()(image, text, scale)
    value.backward(retain_graph=True)
    assert image.grad is not None
    once = image.grad.clone()
    value.backward()
    torch.testing.assert_close(image.grad, 2 * once)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    image, text, scale, _ = inputs()
    (first,) = torch.autograd.grad(
        ClipLoss()(image, text, scale).square(), image, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


MEASURE = """
import torch
from clipkit.losses import ClipLoss, DistillLoss, Positives, SigLipLoss

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))

def run(batch):
    keys = torch.arange(batch)
    positives = Positives(keys, torch.where(keys < batch // 10, 0, keys))
    given = [torch.randn(batch, 16).requires_grad_() for _ in range(2)]
    scale, bias = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    ClipLoss(label_smoothing=0.1, chunk_size=256)(*given, scale, bias, positives).backward()
    SigLipLoss(chunk_size=256)(*given, scale, bias, positives).backward()
    DistillLoss(chunk_size=256)(*given, scale, *given, scale).backward()

run(64)
before = memory("VmRSS")
run(8192)
print((memory("VmHWM") - before) / (4 * 8192**2))
"""


@pytest.mark.slow
def test_memory_stays_far_below_a_matrix_of_logits() -> None:
    # A tenth of the texts are one and the same, so that the lists of positives are long, too.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert float(done.stdout) < 0.35
