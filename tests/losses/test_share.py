import pytest
import torch

from clipkit.losses import Share
from clipkit.losses.share import WHOLE


@pytest.mark.parametrize(("batch", "count"), [(8, 1), (8, 3), (2, 3), (1000, 7)])
def test_the_parts_are_the_batch_and_equal_but_for_a_row(batch: int, count: int) -> None:
    parts = [Share(rank, count, torch.clone).rows(batch) for rank in range(count)]
    assert [row for part in parts for row in part] == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_does_all() -> None:
    assert WHOLE.rows(5) == range(5)
    assert WHOLE.total(torch.tensor(3.0)) == 3
