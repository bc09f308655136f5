"""What is put together before the first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import load_data
from clipkit.data.sources import Sources
from clipkit.data.views import SimClrViews
from clipkit.errors import ConfigError
from clipkit.losses import ClipLoss, NTXentLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.trainable import set_trainable
from clipkit.train.batches import BatchSettings
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.prepare import Prepared, prepare
from clipkit.train.processes import make_accelerator
from clipkit.train.view_term import Views, ViewSettings

VIEWS = Views(ViewSettings(head_hidden=8, batch_size=4), NTXentLoss(temperature=0.5), SimClrViews())


def made(model: DualEncoder, photos: Path, tmp_path: Path, **options: Any) -> Prepared:
    settings: dict[str, Any] = {
        "loss": ClipLoss(),
        "batches": BatchSettings(batch_size=6),
        "cache": FeatureCache(tmp_path / "cache"),
        "seed": 0,
        "max_rejected": 0.1,
        "class_directions": None,
        "teacher": None,
        "views": None,
        "accelerator": make_accelerator("float32", find_unused_parameters=True),
    }
    return prepare(model, Sources.of(load_data(photos)), **{**settings, **options})


def test_pairs_alone(make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path) -> None:
    model = make_model()
    set_trainable(model, "projections")
    found = made(model, photos, tmp_path)
    assert len(found.feed) == 3
    assert found.objective.views is None
    assert found.pairs.cached_images
    assert model.training
    assert isinstance(model.image_projection, Projection)
    assert model.image_projection.standardised  # it has been shown what the frozen tower gives


def test_views_alone_and_beside(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    model = make_model()
    set_trainable(model, "all")
    alone = made(model, photos, tmp_path, loss=None, views=VIEWS)
    assert (alone.feed.pairs, alone.objective.pairs, len(alone.feed)) == (None, None, 5)
    both = made(model, photos, tmp_path, views=VIEWS)
    assert both.feed.pairs is not None
    assert len(both.feed) == 5
    assert not both.pairs.cached_images


def test_the_head_is_a_function_of_the_seed(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    model = make_model()
    heads = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # whatever chance did before
        head = made(model, photos, tmp_path, views=VIEWS, seed=seed).pairs.view_head
        assert head is not None
        heads.append(head.state_dict()["layers.1.weight"].clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_nothing_to_learn_from_is_refused(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing would be learned"):
        made(make_model(), photos, tmp_path, loss=None)
