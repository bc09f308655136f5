from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from clipkit.data import load_data
from clipkit.data.neighbour_order import neighbour_order
from clipkit.data.sources import Source, Sources
from clipkit.errors import ConfigError
from clipkit.evaluate.encoder import DirectEncoder
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import BatchSettings, PairBatches
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.neighbours import NeighbourSettings, find_neighbours, order_by_neighbours


def by_hand(features: torch.Tensor, k: int, same: list[set[int]], most: float) -> list[list[int]]:
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).tolist()
    found = []
    for row, scores in enumerate(cosines):
        near = sorted(range(len(cosines)), key=lambda other: -scores[other])
        good = [o for o in near if o not in same[row] | {row} and scores[o] <= most][:k]
        found.append(good + [-1] * (k - len(good)))
    return found


@pytest.mark.parametrize("several", [False, True])
def test_neighbours_are_the_nearest_that_are_not_the_same(several: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=rng) * 3
    images = torch.randint(0, 30, (40,), generator=rng)
    text_rows = torch.cat([torch.arange(40), torch.randint(0, 40, (25,), generator=rng)])
    text_rows = text_rows if several else text_rows[:40]
    texts = torch.randint(0, 60, (len(text_rows),), generator=rng)
    has = [set(texts[text_rows == row].tolist()) for row in range(40)]
    same = [
        {other for other in range(40) if images[other] == images[row] or has[other] & has[row]}
        for row in range(40)
    ]
    assert any(len(some) > 1 for some in same)
    settings = NeighbourSettings(k=6, max_score=0.8)
    found = find_neighbours(
        features,
        settings,
        image_keys=images,
        text_keys=texts,
        text_rows=text_rows if several else None,
    )
    assert found.tolist() == by_hand(features, 6, same, 0.8)


def test_they_make_an_order() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = find_neighbours(
        features, NeighbourSettings(k=60), image_keys=torch.arange(50), text_keys=torch.arange(50)
    )
    assert found.shape == (50, 60)
    order = neighbour_order(found, group=8, seed=0, epoch=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))


def test_settings_out_of_range() -> None:
    for options, word in (
        ({"k": 0}, "neighbours.k must be at least 1, not 0"),
        ({"group": 0}, "neighbours.group must be at least 1, not 0"),
        ({"max_score": 2}, "neighbours.max_score must be a cosine"),
    ):
        with pytest.raises(ConfigError, match=word):
            NeighbourSettings(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["image", "text"])
def test_the_order_of_what_is_trained_on(
    model: DualEncoder, photos: Path, tmp_path: Path, by: Literal["image", "text"]
) -> None:
    """It is that of the neighbours by the model as it begins, or by another one."""
    data, cache = load_data(photos), FeatureCache(tmp_path / "cache")
    rows = data.captioned()[2:]
    settings = NeighbourSettings(k=4, group=3, by=by, max_score=1.0)
    order = order_by_neighbours(model, data, rows, cache, settings, seed=5)
    judge = DirectEncoder()
    shown = (
        judge.images(model.eval(), data)[0]
        if by == "image"
        else judge.texts(model.eval(), [sample.captions[0] for sample in data])
    )
    found = find_neighbours(
        shown[2:],
        settings,
        image_keys=torch.tensor(data.image_keys())[2:],
        text_keys=torch.tensor([data.caption_key(sample.captions[0]) for sample in data])[2:],
    )
    for epoch in (0, 3):
        expected = neighbour_order(found, group=3, seed=5, epoch=epoch)
        np.testing.assert_array_equal(order(epoch), expected)
    model.save(str(tmp_path / "other"))
    other = replace(settings, model=str(tmp_path / "other"))
    again = order_by_neighbours(model, data, rows, cache, other, seed=5)
    np.testing.assert_array_equal(again(1), order(1))


def test_batches_have_it_and_weights_are_refused(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    data, cache = load_data(photos), FeatureCache(tmp_path / "cache")
    settings, near = BatchSettings(batch_size=6), NeighbourSettings(k=4, group=3, max_score=1.0)
    made = PairBatches(model, data, cache, settings, seed=5, neighbours=near)
    order = order_by_neighbours(model, data, data.captioned(), cache, near, seed=5)
    assert [int(row) for batch in made.epoch(2) for row in batch.rows] == order(2).tolist()
    with pytest.raises(ConfigError, match="needs a single data set whose rows all weigh 1"):
        PairBatches(
            model,
            Sources([Source("data", data, weight=0.5)]),
            cache,
            settings,
            seed=5,
            neighbours=near,
        )
