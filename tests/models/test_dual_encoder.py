import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import nn

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.models.tokenizers import MAX_PIECES
from tests.models.open_clip_folders import make_folder

Make = Callable[..., DualEncoder]


def test_features_are_unit_float32_of_the_stated_width(model: DualEncoder) -> None:
    images = torch.randn(3, 3, 32, 32)
    for features in (
        model.encode_image(images),
        model.encode_text(model.tokenize(["a cat", "a red dog in the white square"])),
    ):
        assert features.dtype == torch.float32
        assert features.shape[1] == model.dim == 16
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_a_text_does_not_depend_on_its_neighbours(model: DualEncoder) -> None:
    alone = model.encode_text(model.tokenize(["a cat"]))
    beside = model.encode_text(model.tokenize(["a cat", "a photo of the red cat in the square"]))
    torch.testing.assert_close(alone[0], beside[0], rtol=1e-5, atol=1e-6)


def test_texts_are_cut_at_the_context_length(model: DualEncoder) -> None:
    tokens = model.tokenize(["cat " * 100, "cat"])
    assert tokens["input_ids"].shape == (2, model.context_length)
    assert model.tokenize(["cat"])["input_ids"].shape[1] == 3
    with pytest.raises(ModelError, match="list of texts"):
        model.tokenize("cat")  # a string is a sequence of strings, and never what is meant


def test_tokens_are_counted_before_any_is_cut(model: DualEncoder) -> None:
    assert model.count_tokens(["cat", "a red cat", "cat " * 500]) == [3, 5, 502]


def test_a_long_text_in_pieces_is_the_mean_of_its_pieces(model: DualEncoder) -> None:
    words = "a photo of the red green blue yellow black white square picture one good cat dog in"
    room = model.context_length - 2
    text = f"{words} {words}"
    split = text.split()
    pieces = [" ".join(split[at : at + room]) for at in range(0, len(split), room)]
    assert len(pieces) == 3
    model.long_texts = "pieces"
    tokens = model.tokenize(["a cat", text, "dog"])
    assert tokens["owner"].tolist() == [0, 1, 1, 1, 2]
    features = model.text_tower_features(tokens)
    lengths = torch.tensor([len(piece.split()) + 2.0 for piece in pieces])
    model.long_texts = "head"
    each = model.text_tower_features(model.tokenize(pieces))
    mean = (each * lengths[:, None]).sum(0) / lengths.sum()
    torch.testing.assert_close(features[1], mean, rtol=1e-4, atol=1e-5)
    short = model.text_tower_features(model.tokenize(["a cat", "dog"]))
    torch.testing.assert_close(features[[0, 2]], short, rtol=1e-4, atol=1e-5)


def test_pieces_are_bounded_and_kept_in_the_fingerprint(model: DualEncoder) -> None:
    before = model.fingerprint()
    model.long_texts = "pieces"
    tokens = model.tokenize(["cat " * 14 * 100, "dog"])
    assert tokens["owner"].tolist() == [0] * MAX_PIECES + [1]
    assert model.fingerprint() != before


def test_frozen_towers_stay_in_evaluation_mode(model: DualEncoder) -> None:
    model.image_tower.requires_grad_(False)
    model.train()
    assert not model.image_tower.training
    assert model.text_tower.training
    assert model.image_projection.training


def test_the_logit_scale_is_clamped(model: DualEncoder) -> None:
    with torch.no_grad():
        model.log_logit_scale.fill_(9.0)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(100.0)
        model.log_logit_scale.fill_(-3.0)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == 1.0


def test_the_fingerprint_follows_every_weight(make_model: Make) -> None:
    model = make_model()
    fingerprint = model.fingerprint()
    assert fingerprint == make_model().fingerprint() != make_model(seed=1).fingerprint()
    model.name = "another name"
    assert model.fingerprint() == fingerprint
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
            assert model.fingerprint() != fingerprint
            fingerprint = model.fingerprint()


def test_state_digest_tells_values_and_names_apart() -> None:
    a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    assert state_digest(a) != state_digest(b)
    b.load_state_dict(a.state_dict())
    assert state_digest(a) == state_digest(b)


def test_a_sigmoid_models_scale_has_no_upper_bound(model: DualEncoder) -> None:
    with torch.no_grad():
        model.log_logit_scale.fill_(5.0)
        model.similarity = "sigmoid"
        model.clamp_logit_scale()
        assert model.log_logit_scale.item() == 5.0
        model.similarity = "softmax"
        model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(100.0)


def test_the_activation_is_in_the_fingerprint(tmp_path: Path) -> None:
    folder = make_folder("vit", tmp_path / "a")
    weights = folder / "open_clip_model.safetensors"
    described = json.loads((folder / "open_clip_config.json").read_text())
    plain = load(f"open_clip:{folder}").fingerprint()
    described["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    assert weights.is_file()
    assert load(f"open_clip:{folder}").fingerprint() != plain


def running(model: DualEncoder) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if ".running_" in k}


@pytest.mark.parametrize("image", ["test_resnet", "test_efficientnet"])
def test_fixed_batch_norms_do_not_see_the_batch(image: str, make_model: Make) -> None:
    model = make_model(image=image)
    images = torch.randn(6, 3, 32, 32)
    before, evaluated = running(model), model.encode_image(images)
    assert before
    model.train()
    whole = model.encode_image(images)
    parts = torch.cat([model.encode_image(part) for part in images.split(2)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, evaluated, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in running(model).items())
    whole[:, 0].sum().backward()
    norms = [m for m in model.image_tower.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.grad is not None for norm in norms)


def test_batch_norms_that_train_are_torchs(make_model: Make) -> None:
    model, images = make_model(), torch.randn(6, 3, 32, 32)
    before = running(model)
    model.batch_norm = "train"
    model.train()
    whole = model.encode_image(images)
    assert not any(torch.equal(value, before[name]) for name, value in running(model).items())
    parts = torch.cat([model.encode_image(part) for part in images.split(2)])
    assert (whole - parts).abs().max() > 1e-2
    model.image_tower.requires_grad_(False)
    assert not any(module.training for module in model.train().image_tower.modules())
    model.image_tower.requires_grad_(True)
    model.batch_norm = "fixed"
    norms = [m for m in model.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)


def test_batch_norms_of_timm_are_fixed_and_nothing_in_or_around_them(model: DualEncoder) -> None:
    norm = BatchNormAct2d(3, drop_layer=nn.Dropout)
    model.image_tower = nn.Sequential(norm, EvoNorm2dB0(3), nn.LayerNorm(8), nn.Dropout(0.1))
    model.train()
    assert [part.training for part in model.image_tower] == [False, False, True, True]
    assert norm.drop.training
    assert model.image_tower.training


def test_what_batch_norms_do_is_not_in_the_fingerprint(model: DualEncoder) -> None:
    before = model.fingerprint()
    model.batch_norm = "train"
    assert model.fingerprint() == before


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_projections_are_float32_in_autocast(projection: str, make_model: Make) -> None:
    model = make_model(projection=projection)
    seen = []
    widths = [part.get_buffer("mean") for part in (model.image_projection, model.text_projection)]
    features = [torch.randn(3, len(width)) for width in widths]
    expected = model.project_image(features[0]), model.project_text(features[1])
    for part in (model.image_projection, model.text_projection):
        part.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.project_image(features[0]), model.project_text(features[1])
        inside = model.encode_image(torch.randn(2, 3, 32, 32))
        assert nn.Linear(2, 2)(torch.ones(2)).dtype == torch.bfloat16  # autocast is as it was
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert inside.dtype == torch.float32
    assert all(tensor.dtype == torch.float32 for pair in seen for tensor in pair)
    inside[:, 0].sum().backward()
    weight = model.get_submodule("image_projection.linear").weight
    assert isinstance(weight, nn.Parameter)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_pieces_in_bfloat16_are_averaged_in_float32(model: DualEncoder) -> None:
    model.long_texts = "pieces"
    tokens = model.tokenize(["a cat", "a red cat in the good picture " * 9])
    model.text_tower.register_forward_hook(lambda _, args, output: output.bfloat16())
    features = model.text_tower_features(tokens)
    hidden = model.text_tower(tokens).float()
    rows = tokens["owner"] == 1
    lengths = tokens["attention_mask"][rows].sum(1, keepdim=True)
    mean = (hidden[rows] * lengths).sum(0) / lengths.sum()
    torch.testing.assert_close(features[1], mean, rtol=1e-5, atol=1e-6)
