"""Gradients of micro-batches and processes against those of one batch and one graph."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from transformers import BertTokenizerFast

from clipkit.losses import LOSSES, Positives
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import TowersSpec, build_towers
from clipkit.models.tokenizers import TransformersTokenizer
from clipkit.train.batches import PairBatch
from clipkit.train.chance import seed_chance
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.objective import Objective
from clipkit.train.processes import make_accelerator
from clipkit.types import Preprocessing
from tests.conftest import TEXT, WORDS

BATCH = 22
DUPLICATES = ("positive", "mask", "ignore")


def tiny_model(loss: str, dropout: float, vocabulary: Path) -> DualEncoder:
    """Make a model of a small ViT and a small BERT, all of which trains."""
    words = {word: at for at, word in enumerate(vocabulary.read_text().splitlines())}
    text = {**TEXT, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(0)
    model = build_towers(
        TowersSpec("test_vit", text, dim=16),
        tokenizer=TransformersTokenizer(BertTokenizerFast(vocab=words), 16),
        preprocessing=Preprocessing(size=160, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        similarity="sigmoid" if loss == "siglip" else "softmax",
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return model.train()


def whole_batch() -> PairBatch:
    """Return pixels and texts in which pictures and captions occur twice."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, 160, 160, 3), generator=generator).to(torch.uint8)
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
    positives = Positives(*torch.cat(keys).unbind(1), how)  # type: ignore[arg-type]
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
    aim = Objective(LOSSES[loss](), duplicates=how)(model, share, *features)  # type: ignore[arg-type]
    grads.backward(aim.gradients)
    return aim.loss


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare to a relative 1e-5 of each gradient's own length."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        length = max(float(value.norm()), 1e-4)  # of some (a key's bias) nothing is left but noise
        assert float((found[name] - value).norm()) <= 1e-5 * length, name


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return path


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("parts", [1, 2, 4, 5])
def test_micro_batches_give_the_gradient_of_one_batch(
    vocabulary: Path, loss: str, dropout: float, parts: int
) -> None:
    how = DUPLICATES[parts % 3]
    micro = -(-BATCH // parts)  # 22, 11, 6 (5 and 6) and 5 (4 and 5)
    batch = whole_batch()
    assert len(batch.parts(tiny_model(loss, dropout, vocabulary), micro)) == parts
    expected, found = (tiny_model(loss, dropout, vocabulary) for _ in range(2))
    wanted = at_once(expected, [batch], micro, loss, how)
    total = cached(found, batch, micro, loss, how, 0)
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-6)
    assert_equal_gradients(gradients(found), gradients(expected))
    names = {"log_logit_scale"} | ({"logit_bias_parameter"} if loss == "siglip" else set())
    assert names <= set(gradients(found))


@pytest.mark.parametrize("parts", [2, 3])
def test_without_dropout_the_parts_do_not_matter(vocabulary: Path, parts: int) -> None:
    """Nothing but the whole batch decides: 22 pairs in parts of 7 and 8 as in one of 22."""
    batch = whole_batch()
    expected, found = (tiny_model("clip", 0.0, vocabulary) for _ in range(2))
    at_once(expected, [batch], BATCH, "clip", "positive")
    cached(found, batch, -(-BATCH // parts), "clip", "positive", 0)
    assert_equal_gradients(gradients(found), gradients(expected))


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


def worker(
    rank: int, count: int, port: int, folder: str, vocabulary: str, cases: list[Any]
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ.update(ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    assert PartialState(cpu=True).num_processes == count
    found = {}
    for at, (loss, dropout, micro, how) in enumerate(cases):
        model = tiny_model(loss, dropout, Path(vocabulary))
        total = cached(model, share_of(whole_batch(), rank, count), micro, loss, how, rank)
        found[at] = (total, gradients(model))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 4])
def test_processes_and_micro_batches_give_the_gradient_of_one(
    vocabulary: Path, tmp_path: Path, count: int
) -> None:
    """Each process's share is cut into 1, 2, 4 (where it can be) and 5 parts of unlike sizes."""
    each = -(-BATCH // count)
    micros = [each, -(-each // 2), -(-each // 4), -(-each // 5)]
    cases = [
        (loss, dropout, micro, DUPLICATES[at % 3])
        for loss in LOSSES
        for dropout in (0.0, 0.3)
        for at, micro in enumerate(micros)
    ]
    spawn: Callable[..., object] = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(worker, (count, free_port(), str(tmp_path), str(vocabulary), cases), nprocs=count)
    shares = [share_of(whole_batch(), rank, count) for rank in range(count)]
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for at, (loss, dropout, micro, how) in enumerate(cases):
        expected = tiny_model(loss, dropout, vocabulary)
        wanted = at_once(expected, shares, micro, loss, how)
        for found in told:
            torch.testing.assert_close(found[at][0], wanted, rtol=1e-5, atol=1e-6)
            assert_equal_gradients(found[at][1], gradients(expected))
