import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipkit.data import load_data
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.train import feature_cache
from clipkit.train.feature_cache import FeatureCache, frozen

Make = Callable[..., DualEncoder]


@pytest.fixture
def still(model: DualEncoder) -> DualEncoder:
    """A model of frozen towers."""
    set_trainable(model, "projections")
    return model


def test_features_equal_those_of_the_model(
    still: DualEncoder, corrupt: Path, tmp_path: Path
) -> None:
    data = load_data(corrupt)
    cache = FeatureCache(tmp_path)
    features, rows = cache.images(still, data)
    expected, kept, _ = encode_images(still, [sample.image for sample in data])
    assert rows == kept
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    texts = ["a cat", "the red dog"]
    torch.testing.assert_close(
        cache.texts(still, texts), encode_texts(still, texts), rtol=1e-4, atol=1e-5
    )
    assert [(r.id, r.where) for r in cache.rejects.values()] == [("red1.png", "photos")]


def test_towers_are_run_once_over_runs(
    still: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(corrupt)
    first = FeatureCache(tmp_path).image_tower(still, data)
    FeatureCache(tmp_path).text_tower(still, ["a cat"])
    monkeypatch.setattr(feature_cache, "fill_store", None)
    again = FeatureCache(tmp_path)
    assert torch.equal(again.image_tower(still, data)[0], first[0])
    again.text_tower(still, ["a cat"])
    assert [r.id for r in again.rejects.values()] == ["red1.png"]


def test_other_towers_pictures_or_settings_are_encoded_anew(
    make_model: Make, photos: Path, tmp_path: Path
) -> None:
    def files() -> int:
        return len(list(tmp_path.glob("*/store.json")))

    one, two = make_model(0), make_model(1)
    for model in (one, two):
        set_trainable(model, "projections")
    FeatureCache(tmp_path).image_tower(one, load_data(photos))
    FeatureCache(tmp_path).image_tower(two, load_data(photos))
    assert files() == 2
    (photos / "red0.png").write_bytes((photos / "blue0.png").read_bytes())
    FeatureCache(tmp_path).image_tower(one, load_data(photos))
    assert files() == 3
    mirrored, _ = FeatureCache(tmp_path).image_tower(one, load_data(photos), mirrored=True)
    assert files() == 4
    plain, _ = FeatureCache(tmp_path).image_tower(one, load_data(photos))
    assert not torch.equal(mirrored, plain)
    with torch.no_grad():
        one.image_projection.weight_changed = True  # type: ignore[assignment]
    assert files() == 4


def test_a_tower_that_trains_is_never_cached(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    set_trainable(model, "all")
    cache = FeatureCache(tmp_path)
    data = load_data(photos)
    before, _ = cache.images(model, data)
    with torch.no_grad():
        next(model.image_tower.parameters()).mul_(3)
    after, _ = cache.images(model, data)
    assert not torch.equal(before, after)
    assert not list(tmp_path.glob("*/store.json"))
    assert not frozen(model.image_tower)


@pytest.mark.parametrize("file", ["shard-00000.parquet", "store.json"])
def test_a_damaged_file_counts_as_absent(
    still: DualEncoder, photos: Path, tmp_path: Path, file: str
) -> None:
    data = load_data(photos)
    expected, _ = FeatureCache(tmp_path).image_tower(still, data)
    path = next(tmp_path.glob(f"*/{file}"))
    path.write_bytes(path.read_bytes()[:100])
    told: list[tuple[str, int, int | None]] = []
    cache = FeatureCache(tmp_path, report=lambda *what: told.append(what))
    assert torch.equal(cache.image_tower(still, data)[0], expected)
    assert told[-1] == ("images of photos", 18, 18)


def test_an_encoding_that_was_killed_goes_on(
    still: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of the rows before could not be read."""
    data = load_data(corrupt)
    expected = FeatureCache(tmp_path / "whole").image_tower(still, data)
    monkeypatch.setattr(feature_cache, "SHARD", 7)

    def killed(what: str, done: int, total: int | None) -> None:
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "cache", report=killed).image_tower(still, data)
    told: list[int] = []
    cache = FeatureCache(tmp_path / "cache", report=lambda _, done, total: told.append(done))
    features, rows = cache.image_tower(still, data)
    assert told[0] > 14
    assert rows == expected[1]
    assert torch.equal(features, expected[0])
    assert [reject.id for reject in cache.rejects.values()] == ["red1.png"]


def test_two_at_once_encode_once(still: DualEncoder, photos: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    told: list[str] = []
    caches = [FeatureCache(tmp_path, report=lambda *_: told.append("")) for _ in range(3)]
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda c=cache: found.append(c.image_tower(still, data)[0]))
        for cache in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(features, found[0]) for features in found)
    assert len(told) == 3  # one of them encoded 18 pictures, 8 at once


def test_no_image_that_can_be_read(still: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of its 1 rows"):
        FeatureCache(tmp_path / "cache").image_tower(still, load_data(folder))
