from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipkit.classify import head as heads
from clipkit.classify.head import Head, class_features, kept_class_features, zero_shot_head
from clipkit.encode import encode_texts
from clipkit.models.dual_encoder import DualEncoder
from clipkit.packages import cache_folder

NAMES = [("red", "a red cat"), ("green",), ("blue",)]
TEMPLATES = ["a {}", "the {} square"]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(heads, "WORTH_KEEPING", 1)
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "labels"


def test_a_zero_shot_head_is_scale_cosine_and_bias(model: DualEncoder) -> None:
    model.use_similarity("sigmoid")
    classes = class_features(NAMES, TEMPLATES, lambda texts: encode_texts(model, texts))
    features = torch.nn.functional.normalize(torch.randn(5, model.dim), dim=1)
    with torch.no_grad():
        expected = model.logit_scale * features @ classes.T - 10
    torch.testing.assert_close(zero_shot_head(model, classes)(features), expected)


def test_logits_do_not_depend_on_how_many_images_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 8, generator=generator)
    examples = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=1)
    cache = heads.ExampleCache(examples, torch.tensor([0, 1, 2, 0, 1, 2]), 2.0, 3.0)
    head = Head(weights, torch.zeros(3), cache)
    images = torch.nn.functional.normalize(torch.randn(2500, 8, generator=generator), dim=1)
    each = torch.cat([head(image[None]) for image in images[1000:1050]])
    torch.testing.assert_close(head(images)[1000:1050], each)


def test_features_are_kept_by_model_and_prompts(
    model: DualEncoder, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept_class_features(model, NAMES, TEMPLATES)
    (file,) = kept.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(heads, "encode_texts", None)
        assert torch.equal(kept_class_features(model, NAMES, TEMPLATES), first)
    assert not torch.equal(kept_class_features(model, NAMES, TEMPLATES[:1]), first)
    assert len(list(kept.iterdir())) == 2
    with torch.no_grad():
        for parameter in model.text_projection.parameters():
            parameter.mul_(-1)
    torch.testing.assert_close(kept_class_features(model, NAMES, TEMPLATES), -first)
    assert len(list(kept.iterdir())) == 3
    assert file.is_file()


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_damaged_or_locked_cache_costs_time_only(
    model: DualEncoder, kept: Path, content: bytes | None
) -> None:
    if content is None:
        kept.parent.mkdir()
        kept.touch()  # a file where the folder would be
        first = kept_class_features(model, NAMES, TEMPLATES)
    else:
        first = kept_class_features(model, NAMES, TEMPLATES)
        (file,) = kept.iterdir()
        file.write_bytes(content)
    assert torch.equal(kept_class_features(model, NAMES, TEMPLATES), first)


def test_few_prompts_are_not_worth_a_file(model: DualEncoder, tmp_path: Path) -> None:
    before = set(cache_folder().rglob("labels/*")) if cache_folder().exists() else set()
    calls: list[int] = []

    def encode(texts: list[str]) -> Tensor:
        calls.append(len(texts))
        return encode_texts(model, texts)

    class_features(NAMES, TEMPLATES, encode)
    kept_class_features(model, NAMES, TEMPLATES)
    assert calls == [8]
    assert set(cache_folder().rglob("labels/*")) == before
