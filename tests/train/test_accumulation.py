"""open_clip's gradient accumulation beside ours: the same small model, the same batch.

open_clip (3.3) caches the features of all micro-batches, then passes each through the model again
and takes the loss of the whole batch with this one's features in place. So a tower's gradient comes
in parts that add up to that of the whole batch, but the logit scale's comes whole from each part:
it is as many times too large as there are parts. What is run here is its own `train_one_epoch`.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip_train.params import parse_args  # type: ignore[import-untyped]
from open_clip_train.train import train_one_epoch  # type: ignore[import-untyped]
from torch import Tensor, nn

from clipkit.data.preprocess import normalize
from clipkit.losses import ClipLoss
from clipkit.models import load
from clipkit.train.batches import PairBatch
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.objective import Objective
from clipkit.train.processes import make_accelerator
from tests.models.open_clip_folders import make_folder

BATCH = 12
TOWERS = {
    "visual.": "image_tower.model.",
    "transformer.": "text_tower.model.transformer.",
    "token_embedding.": "text_tower.model.token_embedding.",
    "positional_embedding": "text_tower.model.positional_embedding",
    "ln_final.": "text_tower.model.ln_final.",
}
PROJECTIONS = {
    "visual.proj": "image_projection.weight",
    "text_projection": "text_projection.weight",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small ViT and causal text tower."""
    return make_folder("vit", tmp_path_factory.mktemp("accumulation") / "model")


def pairs() -> tuple[Tensor, list[str]]:
    """Return pixels and captions, none of which occurs twice."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, 48, 48, 3), generator=generator).to(torch.uint8)
    return pixels, [f"a photo of {'red ' * (at % 3)}cat number {at}" for at in range(BATCH)]


class Data(list[tuple[Tensor, Tensor]]):
    """Micro-batches, with what `train_one_epoch` wants to know of them."""

    @property
    def num_batches(self) -> int:
        return len(self)

    @property
    def num_samples(self) -> int:
        return BATCH


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def by_open_clip(folder: Path, parts: int) -> dict[str, Tensor]:
    """Have open_clip take a step of length 0, and return the gradients that it leaves."""
    model = open_clip.create_model(f"local-dir:{folder}", output_dict=True)
    pixels, captions = pairs()
    images = normalize(pixels, load(f"open_clip:{folder}").preprocessing)
    texts = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    loader = Data(zip(images.chunk(parts), texts.chunk(parts), strict=True))
    args = parse_args(["--model", "ViT-B-32", "--precision", "fp32", "--device", "cpu"])
    args.accum_freq, args.batch_size, args.skip_scheduler = parts, BATCH // parts, True
    args.distill, args.rank, args.world_size, args.wandb = False, 0, 1, False
    data = SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = open_clip.ClipLoss()
    train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, None, None, args)
    return gradients(model)


def by_clipkit(folder: Path, parts: int) -> dict[str, Tensor]:
    """Pass the batch through the same model in parts, and return gradients by open_clip's names."""
    model = load(f"open_clip:{folder}").train()
    pixels, captions = pairs()
    rows = torch.arange(BATCH)
    batch = PairBatch(pixels, captions, rows, None, rows, rows)
    accelerator = make_accelerator("float32", find_unused_parameters=False)
    both = Pairs(model, cached_images=False)
    grads = GradCache(accelerator, both, accelerator.prepare(both), micro_batch_size=BATCH // parts)
    features = grads.encode(batch, moment=(0,))
    assert features.images is not None
    assert features.texts is not None
    grads.backward(Objective(ClipLoss())(model, batch, features.images, features.texts).gradients)
    return gradients(model)


def own_name(name: str) -> str:
    """Return what a parameter of open_clip is called here."""
    if name == "logit_scale":
        return "log_logit_scale"
    if name in PROJECTIONS:
        return PROJECTIONS[name]
    start = next(start for start in TOWERS if name.startswith(start))
    return TOWERS[start] + name.removeprefix(start)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the difference of two gradients in lengths of the second."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-4))


def others(found: dict[str, Tensor]) -> Iterator[str]:
    """Name all but the logit scale."""
    return (name for name in found if name != "logit_scale")


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_logit_scale_whose_gradient_arrives_once(folder: Path, parts: int) -> None:
    """open_clip's arrives once for each part; the rest is equal, and ours is equal throughout."""
    whole, accumulated = by_open_clip(folder, 1), by_open_clip(folder, parts)
    ours = by_clipkit(folder, parts)
    assert abs(float(whole["logit_scale"])) > 1e-3
    assert set(accumulated) == set(whole)
    assert {own_name(name) for name in whole} == set(ours)

    times = float(accumulated["logit_scale"] / whole["logit_scale"])
    assert times == pytest.approx(parts, rel=1e-4)
    for name in others(whole):
        assert relative(accumulated[name], whole[name]) < 1e-4, name

    for name, expected in whole.items():
        found = ours[own_name(name)]
        found = found.T if name in PROJECTIONS else found
        assert relative(found, expected) < 1e-4, name
