"""LoRA learns OpenMoji with under 1 % of the parameters, and nothing else of the model moves."""

from pathlib import Path

import open_clip
import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.evaluate import Retrieval
from clipkit.losses import ClipLoss
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.open_clip_towers import OpenClipImageTower, take_image_projection
from clipkit.models.trainable import Lora, count_parameters, set_trainable
from clipkit.train.batches import BatchSettings
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.loop import fit
from clipkit.train.optim import OptimSettings
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring
from clipkit.types import Preprocessing


def learn(model: DualEncoder, lora: Lora, *, lr: float, epochs: int, rows: int, out: Path) -> None:
    """Train adapters alone on some emoji, and compare the recall among them before and after."""
    set_trainable(model, lora)
    for projection in (model.image_projection, model.text_projection):
        projection.requires_grad_(False)
    counts = count_parameters(model).values()
    trained = sum(some for some, _ in counts)
    assert 0 < trained < 0.01 * sum(some + still for some, still in counts)
    adapters = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = Dataset("some emoji", load_data("openmoji@train").samples[::13][:rows])
    run = RunFolder(out / "run")
    try:
        result = fit(
            model,
            data,
            loss=ClipLoss(),
            optim=OptimSettings(lr=lr, warmup_steps=5),
            batches=BatchSettings(batch_size=50),
            epochs=epochs,
            seed=0,
            scorings=[Scoring("data", "emoji", Retrieval(data=data, ks=(10,)))],
            cache=FeatureCache(out / "cache"),
            run=run,
            precision="float32",
        )
    finally:
        run.close()
    first, last = (
        scores["data"]["emoji"]["mean_recall"] for scores in (result.before, result.after)
    )
    assert last > first + 0.2
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved <= adapters
    assert len(moved) > len(adapters) / 2


@pytest.mark.slow
def test_a_transformers_tower_learns(tmp_path: Path) -> None:
    lora = Lora(rank=4, layers=("attention",), towers=("text_tower",))
    learn(load("starter"), lora, lr=1e-3, epochs=8, rows=150, out=tmp_path)


@pytest.mark.slow
def test_an_open_clip_vit_learns(tmp_path: Path) -> None:
    """Its weights are random, and so is its projection; the texts' features are the starter's."""
    torch.manual_seed(0)
    vision = {"layers": 4, "width": 256, "head_width": 64, "patch_size": 16, "image_size": 64}
    text = {"context_length": 8, "vocab_size": 8, "width": 16, "heads": 1, "layers": 1}
    visual = open_clip.CustomTextCLIP(embed_dim=512, vision_cfg=vision, text_cfg=text).visual
    projection = take_image_projection(visual)
    starter = load("starter")
    half = (0.5, 0.5, 0.5)
    model = DualEncoder(
        OpenClipImageTower(visual),
        starter.text_tower,
        projection,
        starter.text_projection,
        tokenizer=starter.tokenizer,
        preprocessing=Preprocessing(size=64, mean=half, std=half),
        architecture={"kind": "open_clip", "dim": 512},
    ).eval()
    image = sum(parameter.numel() for parameter in model.image_tower.parameters())
    adapters = Lora(rank=1, alpha=8.0, towers=("image_tower",))
    learn(model, adapters, lr=3e-3, epochs=25, rows=100, out=tmp_path)
    assert count_parameters(model)["image_tower"][0] < 0.01 * image
