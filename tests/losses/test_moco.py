"""The loss against a slow loop written from the paper, and the queue against a list."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from clipkit.errors import ConfigError
from clipkit.losses import Duplicates, KeyQueue, MoCoLoss
from tests.losses.cases import moco, queued
from tests.losses.pairs import (
    BATCH,
    CHUNK_SIZES,
    IMAGES,
    MODES,
    assert_equal,
    inputs,
    outcome,
    positives,
)


def slow_loss(
    mode: Duplicates, batch_negatives: bool, query: Tensor, key: Tensor, scale: Tensor
) -> Tensor:
    """Cross-entropy of each query over its own key, the queue's and perhaps the batch's."""
    queue, content = queued()
    total = torch.zeros_like(scale)
    for i in range(BATCH):
        right, wrong = [scale * (query[i] @ key[i].detach())], []
        rest = [(queue[j], int(content[j])) for j in range(len(queue))]
        if batch_negatives:
            rest += [(key[j].detach(), IMAGES[j]) for j in range(BATCH) if j != i]
        for other, kept in rest:
            same = kept == IMAGES[i]
            logit = scale * (query[i] @ other)
            if same and mode == "positive":
                right.append(logit)
            elif not (same and mode == "mask"):
                wrong.append(logit)
        denominator = torch.stack(right + wrong).exp().sum().log()
        total = total - torch.stack(right).mean() + denominator
    return total / BATCH


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_negatives", [False, True])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_value_and_gradients_equal_the_slow_loop(
    mode: Duplicates, batch_negatives: bool, chunk_size: int
) -> None:
    loss = moco(chunk_size, batch_negatives=batch_negatives, dtype=torch.float64)
    found = outcome(lambda *x: loss(*x, None, positives(mode)), inputs()[:3])
    assert_equal(found, outcome(lambda *x: slow_loss(mode, batch_negatives, *x), inputs()[:3]))
    assert not found[2].any()  # of the keys


def test_without_positives_no_content_is_compared() -> None:
    loss = moco(3, dtype=torch.float64)
    assert loss(*inputs()) == loss(*inputs(), positives("ignore"))
    assert loss(*inputs()) != loss(*inputs(), positives("mask"))


def test_an_empty_queue_leaves_the_batch_or_nothing() -> None:
    query, key, scale, _ = inputs()
    empty = MoCoLoss(dim=5, queue_size=7).double()
    found = outcome(empty, (query, key, scale))
    assert_equal(found, tuple(map(torch.zeros_like, found)), tolerance=1e-12)
    empty.batch_negatives = True
    expected = cross_entropy(scale * query @ key.T, torch.arange(BATCH))
    torch.testing.assert_close(empty(query, key, scale), expected)


def test_the_loss_leaves_the_queue_as_it_is() -> None:
    loss = moco(3, dtype=torch.float64)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(*inputs(), positives("mask")).backward()
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("batches", [[3, 2, 4], [4], [9, 1], [1, 11, 2], [4, 4, 4, 0, 3]])
def test_a_queue_keeps_the_newest(batches: list[int]) -> None:
    queue, rows = KeyQueue(size=4, dim=2), torch.arange(40.0).reshape(20, 2)
    seen = 0
    for batch in batches:
        queue.enqueue(rows[seen : seen + batch], torch.arange(seen, seen + batch))
        seen += batch
        held = sorted(range(max(0, seen - 4), seen))
        written = queue.written
        assert sorted(queue.content_keys[written].tolist()) == held
        assert torch.equal(queue.features[written], rows[queue.content_keys[written]])


def test_a_queue_is_in_the_state_and_goes_on_from_there() -> None:
    rows, keys = torch.randn(9, 5), torch.arange(9) + 2**60
    whole, first = MoCoLoss(dim=5, queue_size=4), MoCoLoss(dim=5, queue_size=4)
    for some in (slice(0, 3), slice(3, 6), slice(6, 9)):
        whole.enqueue(rows[some], keys[some])
    first.enqueue(rows[:6], keys[:6])
    second = MoCoLoss(dim=5, queue_size=4)
    second.load_state_dict(first.state_dict())
    second.enqueue(rows[6:], keys[6:])
    # Where keys lie depends on how they came; what lies there does not.
    assert {*second.queue.content_keys.tolist()} == {*whole.queue.content_keys.tolist()}
    assert all(
        torch.equal(second.state_dict()[name], value) for name, value in whole.state_dict().items()
    )


def test_the_queue_holds_values_not_the_callers_tensors() -> None:
    keys = torch.ones(2, 3, requires_grad=True)
    queue = KeyQueue(size=2, dim=3)
    queue.enqueue(keys, torch.arange(2))
    assert not queue.features.requires_grad
    with torch.no_grad():
        keys.zero_()
    assert (queue.features == 1).all()


def test_equal_keys_everywhere_give_the_log_of_what_is_compared() -> None:
    same = torch.ones(8, 4) / 2
    loss = MoCoLoss(dim=4, queue_size=16, temperature=0.07)
    loss.enqueue(same, torch.arange(8))
    assert loss(same, same, torch.tensor(1.0)).item() == pytest.approx(math.log(9), rel=1e-5)


def test_extreme_cosines_at_scale_100_are_finite_and_right() -> None:
    query, scale = normalize(inputs()[0].detach(), dim=1), torch.tensor(100.0)
    for key in (query, -query):
        given = (query.float(), key.float(), scale)
        loss = moco(3, dtype=torch.float32)
        found = outcome(lambda *x: loss(*x, None, positives("mask")), given)  # noqa: B023
        high = tuple(x.double() for x in given)
        exact = outcome(lambda *x: slow_loss("mask", False, *x), high)
        assert all(x.isfinite().all() for x in found)
        assert_equal(tuple(x.double() for x in found), exact, tolerance=1e-4)


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (4, 0)])
def test_a_queue_that_holds_nothing_is_refused(size: int, dim: int) -> None:
    with pytest.raises(ConfigError, match="must be at least 1, not 0"):
        KeyQueue(size=size, dim=dim)


def test_keys_of_another_width_are_refused() -> None:
    loss, other = MoCoLoss(dim=4, queue_size=2), torch.ones(3, 5)
    with pytest.raises(ConfigError, match=r"keys of 4 numbers, .* have 5"):
        loss(other, other, torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"keys of 4 numbers, .* have 5"):
        loss.enqueue(other, torch.arange(3))


def test_a_chunk_has_a_row_at_least() -> None:
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, not 0"):
        MoCoLoss(dim=2, chunk_size=0)
    with pytest.raises(ConfigError, match="temperature must be a number above 0"):
        MoCoLoss(dim=2, temperature=0.0)
