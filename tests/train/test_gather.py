import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from clipkit.train.gather import gather_rows, process_count


def rows_of(rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features of two widths and keys: three rows on rank 0, two on rank 1."""
    generator = torch.Generator().manual_seed(rank)
    n = 3 - rank
    return (
        torch.randn(n, 5, generator=generator),
        torch.randn(n, 2, generator=generator),
        torch.arange(2 * n).reshape(n, 2) + 10 * rank,
    )


def worker(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    first, second, keys = rows_of(rank)
    gathered = gather_rows([first, second], keys, signal=7 * rank)
    assert gathered.share is not None
    found = {
        "first": gathered.features[0],
        "second": gathered.features[1],
        "keys": gathered.keys,
        "mine": gathered.keys[gathered.mine],
        "total": gathered.share.total(torch.tensor([1.0, float(rank)])),
        "rest": torch.tensor([gathered.signal, process_count(), gathered.share.rank]),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_one_process_gathers_nothing() -> None:
    first, second, keys = rows_of(0)
    first.requires_grad_()
    gathered = gather_rows([first, second], keys, signal=3)
    assert torch.equal(gathered.features[0], first)
    assert not gathered.features[0].requires_grad
    assert gathered.features[1] is not None
    assert gathered.keys is keys
    assert (gathered.share, gathered.signal, gathered.mine) == (None, 3, slice(0, 3))


@pytest.mark.filterwarnings("ignore")
def test_two_processes_hold_the_same(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call,attr-defined]
    whole = [torch.cat(parts) for parts in zip(rows_of(0), rows_of(1), strict=True)]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in zip(("first", "second", "keys"), whole, strict=True):
            assert torch.equal(found[name], value)
        assert torch.equal(found["mine"], rows_of(rank)[2])
        assert found["total"].tolist() == [2.0, 1.0]
        assert found["rest"].tolist() == [7, 2, rank]
