"""Gradients of micro-batches and processes against those of one batch and one graph."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipkit.losses import LOSSES
from tests.processes import free_port
from tests.train.small_pairs import (
    BATCH,
    at_once,
    cached,
    gradients,
    share_of,
    tiny_model,
    whole_batch,
    worker,
)

DUPLICATES = ("positive", "mask", "ignore")


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare to a relative 1e-5 of each gradient's own length."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        length = max(float(value.norm()), 1e-4)  # of some (a key's bias) nothing is left but noise
        assert float((found[name] - value).norm()) <= 1e-5 * length, name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("parts", [1, 2, 4, 5])
def test_micro_batches_give_the_gradient_of_one_batch(
    loss: str, dropout: float, parts: int
) -> None:
    how = DUPLICATES[parts % 3]
    micro = -(-BATCH // parts)  # 22, 11, 6 (5 and 6) and 5 (4 and 5)
    batch = whole_batch()
    assert len(batch.parts(tiny_model(loss, dropout), micro)) == parts
    expected, found = (tiny_model(loss, dropout) for _ in range(2))
    wanted = at_once(expected, [batch], micro, loss, how)
    total = cached(found, batch, micro, loss, how, 0)
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-6)
    assert_equal_gradients(gradients(found), gradients(expected))
    names = {"log_logit_scale"} | ({"logit_bias_parameter"} if loss == "siglip" else set())
    assert names <= set(gradients(found))


@pytest.mark.parametrize("parts", [2, 3])
def test_without_dropout_the_parts_do_not_matter(parts: int) -> None:
    """Nothing but the whole batch decides: 22 pairs in parts of 7 and 8 as in one of 22."""
    batch = whole_batch()
    expected, found = (tiny_model("clip", 0.0) for _ in range(2))
    at_once(expected, [batch], BATCH, "clip", "positive")
    cached(found, batch, -(-BATCH // parts), "clip", "positive", 0)
    assert_equal_gradients(gradients(found), gradients(expected))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_and_micro_batches_give_the_gradient_of_one(tmp_path: Path, count: int) -> None:
    """Each process's share is cut into 1, 2, 4 (where it can be) and 5 parts of unlike sizes."""
    each = -(-BATCH // count)
    micros = [each, -(-each // 2), -(-each // 4), -(-each // 5)]
    cases = [
        (loss, dropout, micro, DUPLICATES[at % 3])
        for loss in LOSSES
        for dropout in (0.0, 0.3)
        for at, micro in enumerate(micros)
    ]
    multiprocessing.set_forkserver_preload([worker.__module__])  # imported once for all of them
    start: Callable[..., object] = torch.multiprocessing.start_processes  # type: ignore[attr-defined]
    given = (count, free_port(), str(tmp_path), cases)
    start(worker, given, nprocs=count, start_method="forkserver")
    shares = [share_of(whole_batch(), rank, count) for rank in range(count)]
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for at, (loss, dropout, micro, how) in enumerate(cases):
        expected = tiny_model(loss, dropout)
        wanted = at_once(expected, shares, micro, loss, how)
        for found in told:
            torch.testing.assert_close(found[at][0], wanted, rtol=1e-5, atol=1e-6)
            assert_equal_gradients(found[at][1], gradients(expected))
