"""Two processes give the gradient of one."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from clipkit.losses import ClipLoss, positives_by_content
from clipkit.train.batches import PairBatch
from clipkit.train.gather import gather_batch


class Tiny(torch.nn.Module):
    """Two projections and a scale, as a model of pairs has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = torch.nn.Linear(5, 4), torch.nn.Linear(6, 4)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit = torch.nn.functional.normalize
        return unit(self.image(images), dim=1), unit(self.text(texts), dim=1), self.scale.exp()


def whole_batch() -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(8, 5, generator=generator), torch.randn(8, 6, generator=generator)
    keys = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7])  # row 0 and row 4 are the same image
    return PairBatch(images, texts, keys, torch.arange(8))


def gradients(model: torch.nn.Module, batch: PairBatch) -> dict[str, Tensor]:
    assert isinstance(batch.texts, Tensor)
    images, texts, scale = model(batch.images, batch.texts)
    gathered = gather_batch(images, texts, batch)
    positives = positives_by_content(gathered.image_keys, gathered.text_keys)
    ClipLoss()(gathered.image_features, gathered.text_features, scale, None, positives).backward()
    named = {name.removeprefix("module."): p for name, p in model.named_parameters()}
    return {name: p.grad for name, p in named.items() if p.grad is not None}


def worker(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    batch = whole_batch()
    assert isinstance(batch.texts, Tensor)
    share = PairBatch(
        *(x[rank::2] for x in (batch.images, batch.texts, batch.image_keys, batch.text_keys))
    )
    found = gradients(DistributedDataParallel(Tiny()), share)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_one_process_gathers_nothing() -> None:
    batch = whole_batch()
    images, texts = torch.randn(8, 4), torch.randn(8, 4)
    gathered = gather_batch(images, texts, batch)
    assert gathered.image_features is images
    assert gathered.text_keys is batch.text_keys


@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    expected = gradients(Tiny(), whole_batch())
    started = torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call,attr-defined]
    assert started is None
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(expected) == {
            "image.weight", "image.bias", "text.weight", "text.bias", "scale",
        }  # fmt: skip
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=2e-6, msg=name)
