import copy
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipkit.data import load_data
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.models.precision import computes_in_bf16, find_device, halve_towers, wants_bf16
from tests.models.test_from_transformers import CAPTIONS, KINDS, make_folder, pixels

CIFAR = ["airplane", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CPU = torch.device("cpu")


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=1).min().detach())


def assert_close_in_bf16(
    full: DualEncoder, half: DualEncoder, images: Tensor, *, image_too: bool = True
) -> None:
    with torch.inference_mode():
        tokens = full.tokenize(CAPTIONS)
        pairs = [
            (full.encode_image(images), half.encode_image(images), image_too),
            (full.encode_text(tokens), half.encode_text(tokens), True),
        ]
    for expected, found, halved in pairs:
        assert found.dtype == torch.float32
        assert cosine(expected, found) > 0.999
        assert torch.equal(expected, found) is not halved


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_transformers_in_bf16(kind: str, tmp_path: Path) -> None:
    folder = make_folder(kind, tmp_path / kind)
    full, half = load(f"hf:{folder}"), load(f"hf:{folder}", precision="bf16")
    assert_close_in_bf16(full, half, pixels(full), image_too=kind != "align")


@pytest.mark.parametrize("image", ["test_resnet", "test_vit", "test_convnext"])
def test_paired_towers_in_bf16(make_model: Callable[..., DualEncoder], image: str) -> None:
    full = make_model(image=image)
    half = copy.deepcopy(full)
    halve_towers(half)
    size = 160 if image == "test_vit" else 32
    images = torch.randn(3, 3, size, size)
    assert_close_in_bf16(full, half, images, image_too=image != "test_resnet")


def test_the_starter_in_bf16(starter: DualEncoder) -> None:
    half = load("starter", precision="bf16")
    data = load_data("skimage_photos")
    sources = [data[row].image for row in range(0, len(data), 4)]
    images = [encode_images(model, sources)[0] for model in (starter, half)]
    assert cosine(*images) > 0.999
    texts = [encode_texts(model, [*CAPTIONS, *CIFAR]) for model in (starter, half)]
    assert cosine(*texts) > 0.999
    assert half.fingerprint() == starter.fingerprint()


@pytest.fixture
def model(make_model: Callable[..., DualEncoder]) -> DualEncoder:
    """Both of its towers can be halved."""
    return make_model(image="test_vit")


def test_only_the_towers_are_halved(model: DualEncoder) -> None:
    halve_towers(model)
    for name, parameter in model.named_parameters():
        tower = name.startswith(("image_tower", "text_tower"))
        assert parameter.dtype == (torch.bfloat16 if tower else torch.float32)
        assert parameter.requires_grad is not tower
    model.train()
    assert not model.image_tower.training


def test_towers_with_batch_normalisation_stay_as_they_are(
    make_model: Callable[..., DualEncoder],
) -> None:
    model = make_model(image="test_resnet")
    before = state_digest(model.image_tower)
    halve_towers(model)
    assert state_digest(model.image_tower) == before
    assert set(model.tower_digests) == {"text_tower"}
    assert all(parameter.requires_grad for parameter in model.image_tower.parameters())


def test_branches_for_training_become_one(make_model: Callable[..., DualEncoder]) -> None:
    """Of a MobileOne, whose batch norms keep it in float32."""
    full = make_model(image="mobileone_s0")
    with torch.no_grad():
        for name, value in [*full.named_parameters(), *full.named_buffers()]:
            normalises = ".bn" in name or "identity" in name
            if normalises and value.is_floating_point():  # as if it had been trained
                value.add_(0.2 * torch.rand_like(value))
    half, images = copy.deepcopy(full), torch.randn(3, 3, 64, 64)
    halve_towers(half)
    layers = [sum(isinstance(m, torch.nn.Conv2d) for m in t.modules()) for t in (full, half)]
    assert layers[1] < layers[0] / 2
    assert not any(parameter.requires_grad for parameter in half.image_tower.parameters())
    with torch.inference_mode():
        features = half.encode_image(images)
        assert cosine(full.encode_image(images), features) > 0.99999
    halve_towers(half)  # a second time, and training: nothing changes
    with torch.inference_mode():
        assert torch.equal(half.train().encode_image(images), features)
    assert half.fingerprint() == full.fingerprint()


def test_towers_called_alone_take_and_give_float32(model: DualEncoder) -> None:
    halve_towers(model)
    assert model.image_tower(torch.randn(2, 3, 160, 160)).dtype == torch.float32
    assert model.text_tower_features(model.tokenize(["a cat"])).dtype == torch.float32
    copied = copy.deepcopy(model)
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(copied.encode_image(images), model.encode_image(images))


def test_long_texts_in_pieces_in_bf16(model: DualEncoder) -> None:
    model.long_texts = "pieces"
    tokens = model.tokenize(["a cat", "a red cat in the good picture " * 9])
    full = model.encode_text(tokens)
    halve_towers(model)
    assert cosine(full, model.encode_text(tokens)) > 0.999


def test_the_fingerprint_is_that_of_float32(model: DualEncoder) -> None:
    before = model.fingerprint()
    halve_towers(model)
    halve_towers(model)
    assert model.fingerprint() == before
    model.long_texts = "pieces"
    assert model.fingerprint() != before


def test_a_model_in_bf16_cannot_be_saved(model: DualEncoder, tmp_path: Path) -> None:
    halve_towers(model)
    with pytest.raises(ModelError, match="load it with precision float32"):
        model.save(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_auto_is_bf16_where_the_device_computes_in_it(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(str(tmp_path / "model"))
    for able in (True, False):
        monkeypatch.setattr("clipkit.models.precision.computes_in_bf16", lambda _, able=able: able)
        loaded = load(tmp_path / "model", precision="auto")
        dtype = next(loaded.image_tower.parameters()).dtype
        assert dtype == (torch.bfloat16 if able else torch.float32)
        assert not wants_bf16("float32", CPU)
        assert wants_bf16("bf16", CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the system does not tell")
def test_what_the_cpu_computes_in() -> None:
    text = Path("/proc/cpuinfo").read_text()
    if platform.machine() == "x86_64":
        assert computes_in_bf16("cpu") is (" avx512_bf16" in text)
    assert not computes_in_bf16("meta")


@pytest.mark.gpu
def test_what_the_gpu_computes_in() -> None:
    assert computes_in_bf16("cuda") is (torch.cuda.get_device_capability() >= (8, 0))


def test_the_device_is_where_the_model_computes() -> None:
    assert load("starter", device="cpu").device == CPU
    for name in ("cpux", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used"):
            load("starter", device=name)
        with pytest.raises(ConfigError, match="cannot be used"):
            find_device(name)


def test_an_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="'fp16' is unknown; known: float32, bf16, auto"):
        wants_bf16("fp16", CPU)
