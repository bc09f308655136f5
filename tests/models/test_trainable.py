from collections.abc import Callable

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.trainable import TRAINABLE, set_dropout, set_trainable


@pytest.mark.parametrize("what", sorted(TRAINABLE))
def test_what_trains_and_what_is_counted(model: DualEncoder, what: str) -> None:
    counts = set_trainable(model, what)
    for part, (trained, frozen) in counts.items():
        parameters = list(getattr(model, part).parameters())
        assert trained + frozen == sum(p.numel() for p in parameters)
        trains = part.endswith("projection") or part in TRAINABLE[what]
        assert all(p.requires_grad == trains for p in parameters)
        assert (frozen == 0) == trains
    assert model.log_logit_scale.requires_grad


def test_frozen_parts_hold_no_gradient(model: DualEncoder) -> None:
    set_trainable(model, "text_tower")
    model.train()
    loss = model.encode_image(torch.randn(2, 3, 32, 32)).sum()
    loss = loss + model.encode_text(model.tokenize(["a cat", "a dog"])).sum()
    loss.backward()
    assert all(p.grad is None for p in model.image_tower.parameters())
    assert any(p.grad is not None for p in model.text_tower.parameters())


def test_unknown_names_are_suggested(model: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="did you mean 'projections'"):
        set_trainable(model, "projection")


def test_set_dropout(make_model: Callable[..., DualEncoder]) -> None:
    model = make_model(projection="mlp")
    set_dropout(model, hidden=0.3, image_features=0.5)
    assert isinstance(model.image_projection, Projection)
    assert isinstance(model.text_projection, Projection)
    assert model.image_projection.dropout.p == model.text_projection.dropout.p == 0.3
    assert model.image_projection.feature_dropout.p == 0.5
    assert model.text_projection.feature_dropout.p == 0.0
    with pytest.raises(ConfigError, match=r"text_feature_dropout: 1\.0"):
        set_dropout(model, text_features=1.0)
    model.image_projection = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="Linear has none"):
        set_dropout(model, hidden=0.1)
