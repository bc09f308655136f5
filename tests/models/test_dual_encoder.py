import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
