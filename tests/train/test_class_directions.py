"""The two terms against loops, on the starter's own towers."""

from pathlib import Path

import pytest
import torch

from clipkit.classify.prompts import resolve_templates
from clipkit.data import load_data
from clipkit.errors import ConfigError
from clipkit.imagenet import imagenet_class_names
from clipkit.models import starter_towers
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.starter import starter_classifier
from clipkit.models.trainable import set_trainable
from clipkit.train.class_directions import ClassDirections
from clipkit.train.feature_cache import FeatureCache


@pytest.fixture(scope="module")
def towers() -> DualEncoder:
    model = starter_towers(dim=32, projection="mlp", hidden=16)
    set_trainable(model, "projections")
    return model


@pytest.fixture(scope="module")
def features(towers: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    return cache.image_tower(towers, load_data("skimage_photos"))[0]


def test_directions_point_to_their_own_class(
    towers: DualEncoder, features: torch.Tensor, tmp_path: Path
) -> None:
    """The classifier itself takes a prototype without noise for its class."""
    terms = ClassDirections(offset=2.0, templates="none")
    terms.prepare(towers, features, FeatureCache(tmp_path))
    weight, bias = starter_classifier()
    offsets = features - features.mean(0)
    covariance = sum(torch.outer(x, x) for x in offsets) / len(offsets)
    directions = torch.stack([covariance @ row for row in weight])
    lengths = directions.norm(dim=1).mean()
    expected = directions * 2.0 * offsets.norm(dim=1).mean() / lengths
    torch.testing.assert_close(terms._directions, expected, rtol=1e-3, atol=1e-4)
    scores = (features.mean(0) + terms._directions) @ weight.T + bias
    rank = (scores > scores.diagonal()[:, None]).sum(1).float()
    assert rank.median() < 100  # twenty pictures span little of the space, and still


def test_the_terms_equal_a_slow_loop(
    towers: DualEncoder, features: torch.Tensor, tmp_path: Path
) -> None:
    terms = ClassDirections(
        weight=0.3, distill=0.7, classes_per_step=5, noise=0.0, templates="none"
    )
    cache = FeatureCache(tmp_path)
    terms.prepare(towers, features, cache)
    towers.eval()
    torch.manual_seed(4)
    found = terms(towers, features[:3])
    torch.manual_seed(4)
    torch.randint(1, (1000,))
    chosen = torch.randint(1000, (5,))
    names = towers.project_text(cache.text_tower(towers, list(imagenet_class_names(unique=False))))
    prototypes = (features.mean(0) + terms._directions[chosen]).clamp(0, 6)
    scale = towers.logit_scale
    direct = torch.stack(
        [
            -(scale * towers.project_image(p[None]) @ names.T).log_softmax(1)[0, c]
            for p, c in zip(prototypes, chosen, strict=True)
        ]
    ).mean()
    weight, bias = starter_classifier()
    distilled = torch.stack(
        [
            -(
                (weight @ row + bias).softmax(0)
                * (scale * towers.project_image(row[None]) @ names.T).log_softmax(1)[0]
            ).sum()
            for row in features[:3]
        ]
    ).mean()
    torch.testing.assert_close(found, 0.3 * direct + 0.7 * distilled, rtol=1e-4, atol=1e-4)


def test_feature_dropout_does_not_touch_the_terms(
    towers: DualEncoder, features: torch.Tensor, tmp_path: Path
) -> None:
    terms = ClassDirections(classes_per_step=4, templates="none")
    terms.prepare(towers, features, FeatureCache(tmp_path))
    heads = (towers.image_projection, towers.text_projection)
    values = []
    for share in (0.0, 0.9):
        for head in heads:
            assert isinstance(head, Projection)
            head.feature_dropout.p = share
        towers.train()
        torch.manual_seed(2)
        values.append(terms(towers, features[:4]))
    towers.eval()
    assert torch.equal(values[0], values[1])


def test_models_without_that_classifier_are_refused(
    model: DualEncoder, towers: DualEncoder, tmp_path: Path
) -> None:
    terms = ClassDirections()
    assert len(terms.templates) == len(resolve_templates("simple"))
    with pytest.raises(ConfigError, match="starter's image tower"):
        terms.prepare(model, torch.zeros(4, 8), FeatureCache(tmp_path))
    with pytest.raises(ConfigError, match="trainable: projections"):
        terms.prepare(towers, None, FeatureCache(tmp_path))
