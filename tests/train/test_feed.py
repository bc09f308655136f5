"""Batches of a run from any step on."""

from itertools import islice
from pathlib import Path

import pytest
from torch import Tensor

from clipkit.data import load_data
from clipkit.data.sources import Source, Sources
from clipkit.data.views import SimClrViews
from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import BatchSettings, PairBatches
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.feed import Feed
from clipkit.train.view_batches import ViewBatches
from clipkit.types import Reject


@pytest.fixture
def both(model: DualEncoder, photos: Path, tmp_path: Path) -> Feed:
    """3 batches of pairs an epoch, 5 of views."""
    sources = Sources([Source("data", load_data(photos))])
    cache = FeatureCache(tmp_path / "cache")
    pairs = PairBatches(model, sources, cache, BatchSettings(batch_size=6), seed=0)
    return Feed(pairs, ViewBatches(model, sources, SimClrViews(), batch_size=4, seed=0))


def seen(feed: Feed, step: int, count: int) -> list[tuple[list[int], list[int], Tensor]]:
    """Return the rows of some batches, and the first views."""
    found = []
    for batch in islice(feed.batches(step), count):
        assert batch.pairs is not None
        assert batch.views is not None
        rows = batch.pairs.rows.tolist(), batch.views.rows.tolist()
        found.append((*rows, batch.views.first))
    return found


@pytest.mark.parametrize("step", [1, 4, 7])
def test_both_go_on_from_any_step(both: Feed, step: int) -> None:
    assert len(both) == 5
    whole, rest = seen(both, 0, step + 4)[step:], seen(both, step, 4)
    assert [some[:2] for some in whole] == [some[:2] for some in rest]
    assert all(bool((one[2] == other[2]).all()) for one, other in zip(whole, rest, strict=True))
    pairs, views = both.pairs, both.views
    assert pairs is not None
    assert views is not None
    first = list(pairs.epoch(step // 3))[step % 3].rows.tolist()
    assert rest[0][0] == first
    assert rest[0][1] == list(views.epoch(step // 5))[step % 5].rows.tolist()


def test_either_may_be_alone(both: Feed) -> None:
    pairs, views = Feed(both.pairs), Feed(None, both.views)
    assert (len(pairs), pairs.batch_size) == (3, 6)
    assert (len(views), views.batch_size, views.shorten) == (5, 4, None)
    assert next(views.batches(0)).pairs is None
    assert next(pairs.batches(0)).views is None
    with pytest.raises(ConfigError, match="nothing would be learned"):
        Feed(None)


def test_rows_that_either_skips_are_skipped(both: Feed) -> None:
    assert both.views is not None
    both.skip([Reject("b", "why")])
    both.views.skips.add([Reject("a", "why"), Reject("b", "why")])
    assert [reject.id for reject in both.skipped] == ["a", "b"]
