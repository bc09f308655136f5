"""Features, keys with duplicates, and several ranks in one process, for tests of losses."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from clipkit.losses import Duplicates, Positives, Share

# 0 and 2 share an image, 1 and 3 a text, 1 and 4 an image, 0 and 6 a text, 5 and 7 both.
IMAGES = [0, 1, 0, 3, 1, 5, 6, 5]
TEXTS = [0, 1, 2, 1, 4, 5, 0, 5]
BATCH = len(IMAGES)
CHUNK_SIZES = [1, 3, BATCH, 100]
MODES: list[Duplicates] = ["positive", "mask", "ignore"]

Outcome = tuple[Tensor, ...]


def positives(mode: Duplicates) -> Positives:
    return Positives(torch.tensor(IMAGES), torch.tensor(TEXTS), mode)


def alike(i: int, j: int) -> bool:
    return IMAGES[i] == IMAGES[j] or TEXTS[i] == TEXTS[j]


def is_positive(mode: Duplicates, i: int, j: int) -> bool:
    return i == j or (mode == "positive" and alike(i, j))


def is_left_out(mode: Duplicates, i: int, j: int) -> bool:
    return i != j and mode == "mask" and alike(i, j)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of no special length, a scale and a bias, all to be differentiated."""
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(2, BATCH, 5, generator=generator, dtype=torch.float64).to(dtype)
    scale, bias = torch.tensor(1.7, dtype=dtype), torch.tensor(-2.0, dtype=dtype)
    return tuple(x.clone().requires_grad_() for x in (image, text, scale, bias))  # type: ignore[return-value]


def outcome(loss: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Outcome:
    """The value and the gradients of a loss; those of what it does not use are 0."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    value = loss(*leaves)
    (2.5 * value).backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    return value.detach(), *gradients


def assert_equal(found: Outcome, expected: Outcome, tolerance: float | None = None) -> None:
    """Compare values and gradients: to a relative and absolute tolerance, or that of the dtype."""
    assert len(found) == len(expected)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


def on_ranks(count: int, work: Callable[[Share], Outcome]) -> list[Outcome]:
    """What each of several ranks gets, each of them a thread."""
    barrier = threading.Barrier(count, timeout=60)
    parts: list[Tensor] = [torch.empty(0)] * count

    def run(rank: int) -> Outcome:
        def total(tensor: Tensor) -> Tensor:
            parts[rank] = tensor.clone()
            barrier.wait()
            assert len({part.shape for part in parts}) == 1
            tensor.copy_(torch.stack(parts).sum(0))
            barrier.wait()
            return tensor

        try:
            return work(Share(rank, count, total))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
