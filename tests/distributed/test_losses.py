"""Two processes, each with its part of a batch: the losses of rows are those of one process."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from clipkit.losses import KeyQueue
from clipkit.train.gather import gather_rows
from tests.losses.cases import CASES
from tests.losses.pairs import BATCH, IMAGES, assert_equal, inputs, outcome
from tests.processes import start_processes


def work(folder: str) -> None:
    """Compute all losses from what was gathered, as training does; one of the processes."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = [slice(0, 5), slice(5, BATCH)][rank]
    first, second, scale, bias = (x.detach() for x in inputs())
    keys = torch.tensor(IMAGES)[:, None]
    gathered = gather_rows([first[mine], second[mine]], keys[mine])
    assert gathered.share is not None
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, case in CASES.items():
        call = case(3, torch.float64)
        found[name] = outcome(
            lambda *x, call=call: call(*x, share=gathered.share), (*gathered.features, scale, bias)
        )
    queue = KeyQueue(size=11, dim=first.shape[1])
    for _ in range(2):
        queue.enqueue(gathered.features[1], gathered.keys[:, 0])
    found["queue"] = tuple(queue.state_dict().values())
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    code = f"from tests.distributed.test_losses import work; work({str(tmp_path)!r})"
    started = start_processes([sys.executable, "-c", code], 2)
    told = [process.communicate(timeout=120)[0].decode() for process in started]
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text[-3000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    queue = KeyQueue(size=11, dim=inputs()[1].shape[1])
    for _ in range(2):
        queue.enqueue(inputs()[1].detach(), torch.tensor(IMAGES))
    assert_equal(one["queue"], tuple(queue.state_dict().values()), tolerance=0)
    for name in [*CASES, "queue"]:
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True)), name
    for name, case in CASES.items():
        assert_equal(one[name], outcome(case(1000, torch.float64), inputs()))
