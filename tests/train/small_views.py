"""Views of a small batch and their gradients: in one graph, and as training does.

Processes that a test starts import this alone: runtime type checks would take them seconds.
"""

import os

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

from clipkit.data.preprocess import normalize
from clipkit.data.views import SimClrViews
from clipkit.losses import ClipLoss, MoCoLoss, NTXentLoss, Positives, SupConLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.fast_paths import fast_paths
from clipkit.train.feed import StepBatch
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.objective import Objective
from clipkit.train.processes import make_accelerator
from clipkit.train.step import StepObjective
from clipkit.train.view_batches import ViewBatch
from clipkit.train.view_term import Views, ViewSettings, ViewTerm
from tests.processes import told_to_process
from tests.train.small_pairs import SIZE, share_of, tiny_model, whole_batch

BATCH = 12
CASES = ("alone", "joint", "slip", "labels", "moco")
"""A head alone; the joint space; with captions; with labels; a slow copy and a queue."""


def view_batch() -> ViewBatch:
    """Return views of pictures two of which are the same, some with labels."""
    generator = torch.Generator().manual_seed(5)
    shape = (2, BATCH, SIZE, SIZE, 3)
    first, second = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    keys = torch.arange(BATCH)
    keys[7] = 2
    labels = torch.tensor([0, 1, 2, -1] * 3)
    return ViewBatch(first, second, torch.arange(BATCH) + 100, keys, labels)


def share(batch: ViewBatch, rank: int, count: int) -> ViewBatch:
    """Return one process's pictures: every `count`th."""
    some = slice(rank, None, count)
    return ViewBatch(
        batch.first[some],
        batch.second[some],
        batch.rows[some],
        batch.image_keys[some],
        batch.labels[some],
    )


def term(model: DualEncoder, case: str) -> ViewTerm:
    """Make the term of a case."""
    settings = ViewSettings(weight=0.7, head_hidden=24, head_dim=8)
    loss: nn.Module = NTXentLoss()
    if case == "joint":
        settings = ViewSettings(weight=0.7)
    if case == "labels":
        loss = SupConLoss(temperature=0.5)
    if case == "moco":
        settings = ViewSettings(weight=0.7, head_hidden=24, head_dim=8, momentum=0.9)
        loss = MoCoLoss(dim=8, queue_size=32)
        loss.enqueue(nn.functional.normalize(torch.randn(20, 8), dim=1), torch.arange(20))
    torch.manual_seed(3)
    return ViewTerm(model, Views(settings, loss, SimClrViews()), duplicates="positive")


def _named(model: DualEncoder, made: ViewTerm) -> dict[str, Tensor]:
    """Return the gradients by name."""
    named = [*model.named_parameters(), *made.named_parameters(prefix="views")]
    return {name: value.grad for name, value in named if value.grad is not None}


def in_one_graph(case: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients of everything at once, by automatic differentiation."""
    torch.manual_seed(11)
    model = tiny_model("clip", 0.0)
    made = term(model, case)
    batch = view_batch()
    images = [normalize(some, model.preprocessing) for some in (batch.first, batch.second)]
    head = model.image_projection if made.head is None else made.head
    with fast_paths(model.device):  # towers compute as in training: only the parts are in question
        first, second = (
            nn.functional.normalize(head(model.image_tower(some)), dim=1) for some in images
        )
    if case == "moco":
        second = second.detach()
    known = Positives(batch.image_keys, batch.image_keys)
    fifth = batch.labels if case == "labels" else known
    loss = 0.7 * made.loss(first, second, model.logit_scale, None, fifth)
    if case == "slip":
        pairs = whole_batch()
        pictures = model.encode_image(normalize(pairs.images, model.preprocessing))
        assert isinstance(pairs.texts, list)
        texts = model.encode_text(model.tokenize(pairs.texts))
        belong = Positives(pairs.image_keys, pairs.text_keys)
        loss = loss + ClipLoss()(pictures, texts, model.logit_scale, None, belong)
    loss.backward()
    return loss.detach(), _named(model, made)


def by_parts(case: str, micro: int, *, rank: int, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the same of one process's share, by parts, as training does."""
    torch.manual_seed(11)
    model = tiny_model("clip", 0.0)
    made = term(model, case)
    accelerator = make_accelerator("float32", find_unused_parameters=True)
    pairs = Pairs(model, cached_images=False, views=made)
    wrapped = accelerator.prepare(pairs)
    grads = GradCache(accelerator, pairs, wrapped, micro_batch_size=micro, views=made)
    captioned = share_of(whole_batch(), rank, count) if case == "slip" else None
    batch = StepBatch(captioned, share(view_batch(), rank, count))
    own = Objective(ClipLoss()) if case == "slip" else None
    features = grads.encode(batch.pairs, batch.views, moment=(0, rank))
    aim = StepObjective(own, made)(model, batch, features)
    grads.backward(
        None if aim.pairs is None else aim.pairs.gradients,
        None if aim.views is None else aim.views.gradients,
    )
    return aim.loss, _named(model, made)


def worker(rank: int, count: int, port: int, folder: str) -> None:
    """Pass this process's share through the model, and write losses and gradients."""
    os.environ.update(told_to_process(rank, count, port))
    torch.set_num_threads(1)
    assert PartialState(cpu=True).num_processes == count
    for case in CASES:
        torch.save(by_parts(case, 3, rank=rank, count=count), f"{folder}/{case}-{rank}.pt")
    dist.destroy_process_group()
