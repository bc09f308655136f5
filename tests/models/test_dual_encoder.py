from collections.abc import Callable

import pytest
import torch

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder, state_digest

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
