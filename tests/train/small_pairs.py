"""A small model, a batch with duplicates, and its gradients: in one graph, and as training does.

Processes that a test starts import this alone: runtime type checks would take them seconds.
"""

import os
from typing import Any

import timm
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from transformers import BertTokenizerFast

from clipkit.losses import LOSSES, Positives
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import ImageTower, TowersSpec, build_towers
from clipkit.models.tokenizers import TransformersTokenizer
from clipkit.train.batches import PairBatch
from clipkit.train.chance import seed_chance
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.objective import Objective
from clipkit.train.processes import make_accelerator
from clipkit.types import Preprocessing
from tests.processes import told_to_process

WORDS = "a photo of the red green blue yellow black white square picture one good cat dog".split()
TEXT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "vocab_size": 5 + len(WORDS),
}
SIZE = 32
BATCH = 22


def tiny_model(loss: str, dropout: float) -> DualEncoder:
    """Make a model of a small ViT and a small BERT, all of which trains."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = {word: at for at, word in enumerate(vocabulary)}
    text = {**TEXT, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(0)
    model = build_towers(
        TowersSpec("test_vit", text, dim=16),
        tokenizer=TransformersTokenizer(BertTokenizerFast(vocab=words), 16),
        preprocessing=Preprocessing(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        similarity="sigmoid" if loss == "siglip" else "softmax",
    )
    assert isinstance(model.image_tower, ImageTower)
    model.image_tower.model = timm.create_model("test_vit", num_classes=0, img_size=SIZE, depth=2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return model.train()


def whole_batch() -> PairBatch:
    """Return pixels and texts in which pictures and captions occur twice."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), generator=generator).to(torch.uint8)
    texts = [" ".join(WORDS[at % 16 : at % 16 + 1 + at % 3]) for at in range(BATCH)]
    texts[7] = texts[3]
    image_keys = torch.arange(BATCH)
    image_keys[11] = 0
    pixels[11] = pixels[0]
    text_keys = torch.tensor([texts.index(text) for text in texts])
    return PairBatch(pixels, texts, torch.arange(BATCH), None, image_keys, text_keys)


def share_of(batch: PairBatch, rank: int, count: int) -> PairBatch:
    """Return one process's pairs: every `count`th."""
    assert isinstance(batch.texts, list)
    some = slice(rank, None, count)
    return PairBatch(
        batch.images[some],
        batch.texts[some],
        batch.rows[some],
        None,
        batch.image_keys[some],
        batch.text_keys[some],
    )


def gradients(model: DualEncoder) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def at_once(model: DualEncoder, shares: list[PairBatch], micro: int, loss: str, how: str) -> Tensor:
    """Pass all shares through the model in one graph, as one process would with much memory."""
    features, keys = [], []
    for rank, share in enumerate(shares):
        for at, part in enumerate(share.parts(model, micro)):
            seed_chance(0, rank, at)
            images, texts = part.on_device(model)
            assert isinstance(texts, dict)
            features.append((model.encode_image(images), model.encode_text(texts)))
        keys.append(torch.stack([share.image_keys, share.text_keys], 1))
    images, texts = (torch.cat(side) for side in zip(*features, strict=True))
    image_keys, text_keys = torch.cat(keys).unbind(1)
    positives = Positives(image_keys, text_keys, how)  # type: ignore[arg-type]
    total: Tensor = LOSSES[loss]()(images, texts, model.logit_scale, model.logit_bias, positives)
    total.backward()
    return total.detach()


def cached(
    model: DualEncoder, share: PairBatch, micro: int, loss: str, how: str, rank: int
) -> Tensor:
    """Pass one share through the model by parts, as training does."""
    accelerator = make_accelerator("float32", find_unused_parameters=True)
    pairs = Pairs(model, cached_images=False)
    grads = GradCache(accelerator, pairs, accelerator.prepare(pairs), micro_batch_size=micro)
    features = grads.encode(share, moment=(0, rank))
    assert features.images is not None
    assert features.texts is not None
    aim = Objective(LOSSES[loss](), duplicates=how)(model, share, features.images, features.texts)  # type: ignore[arg-type]
    grads.backward(aim.gradients)
    return aim.loss


Case = tuple[str, float, int, str]
"""Loss, dropout, pairs a micro-batch, what duplicates are."""


def worker(rank: int, count: int, port: int, folder: str, cases: list[Case]) -> None:
    """Pass this process's share through the model, and write losses and gradients."""
    os.environ.update(told_to_process(rank, count, port))
    torch.set_num_threads(1)
    assert PartialState(cpu=True).num_processes == count
    found = {}
    for at, (loss, dropout, micro, how) in enumerate(cases):
        model = tiny_model(loss, dropout)
        total = cached(model, share_of(whole_batch(), rank, count), micro, loss, how, rank)
        found[at] = (total, gradients(model))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
