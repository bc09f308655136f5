"""Views of pictures: functions of chance, with settings that do what they say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from clipkit.data.order import view_generator
from clipkit.data.views import SimClrViews
from clipkit.errors import ConfigError
from clipkit.types import Preprocessing

SMALL = Preprocessing(size=48, mean=(0.5,) * 3, std=(0.5,) * 3)
PLAIN: dict[str, Any] = {"min_scale": 1.0, "flip": 0.0, "color": 0.0, "gray": 0.0, "blur": 0.0}


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)


def view(picture: Image.Image, row: int = 0, number: int = 0, **settings: Any) -> np.ndarray:
    rng = view_generator(row, view=number, seed=1, epoch=2)
    return SimClrViews(**settings)(picture, SMALL, rng)


def test_a_view_is_a_function_of_row_epoch_and_number(picture: Image.Image) -> None:
    first = view(picture)
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, view(picture))
    assert (first != view(picture, number=1)).any()
    assert (first != view(picture, row=1)).any()


def views(picture: Image.Image, count: int, **settings: Any) -> list[np.ndarray]:
    return [view(picture, row, **settings) for row in range(count)]


def test_a_share_of_the_views_is_mirrored(picture: Image.Image) -> None:
    whole = picture.resize((48, 48), Image.Resampling.BICUBIC)
    settings: dict[str, Any] = {**PLAIN, "min_scale": 1.0, "flip": 0.25}
    turned = 0
    for found in views(picture, 80, **settings):
        plain, mirrored = (
            np.abs(found.astype(int) - np.array(some).astype(int)).mean()
            for some in (whole, whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        )
        turned += mirrored < plain
    assert 10 <= turned <= 32


def test_a_share_of_the_views_has_no_colours(picture: Image.Image) -> None:
    gray = [
        bool((found[..., :1] == found).all())
        for found in views(picture, 80, **{**PLAIN, "gray": 0.5})
    ]
    assert 24 <= sum(gray) <= 56
    assert not any((found[..., :1] == found).all() for found in views(picture, 9, **PLAIN))


def test_a_blur_takes_detail_away_and_keeps_the_mean() -> None:
    large = replace(SMALL, size=224)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    detail = {0.0: 0.0, 1.0: 0.0}
    for row in range(6):
        means = []
        for blur in detail:
            rng = view_generator(row, view=0, seed=1, epoch=2)
            found = SimClrViews(**{**PLAIN, "blur": blur})(picture, large, rng)
            detail[blur] += np.abs(np.diff(found.astype(int), axis=1)).mean()
            means.append(found.mean())
        assert abs(means[0] - means[1]) < 1
    assert detail[1.0] < 0.6 * detail[0.0]


def test_a_share_of_the_views_lacks_one_rectangle(picture: Image.Image) -> None:
    whole = view(picture, **PLAIN)
    erased = 0
    for found in views(picture, 80, **PLAIN, erase=0.5):
        changed = (found != whole).any(2)
        if not changed.any():
            continue
        erased += 1
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        inside = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside == inside[0, 0]).all()
        assert inside[..., 0].size <= 0.36 * whole[..., 0].size
    assert 25 <= erased <= 55


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_shift_is_that_of_torchvision(picture: Image.Image, name: str) -> None:
    """Some factor in its range turns the crop into the view."""
    still: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    sharp = view(picture, **PLAIN)
    found = view(picture, **{**PLAIN, "color": 1.0, **still, name: 0.4})
    crop = torch.from_numpy(sharp).permute(2, 0, 1)
    shift = getattr(functional, f"adjust_{name}")
    errors = [
        np.abs(shift(crop, factor).permute(1, 2, 0).numpy().astype(int) - found.astype(int)).mean()
        for factor in np.linspace(0.6, 1.4, 161)
    ]
    assert min(errors) < 1.0
    assert (found != sharp).any()


def test_a_hue_turns_colours_only(picture: Image.Image) -> None:
    still: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    sharp = view(picture, **PLAIN).astype(int)
    found = view(picture, **{**PLAIN, "color": 1.0, **still, "hue": 0.4}).astype(int)
    assert np.abs(found - sharp).mean() > 5
    assert np.abs(found.max(2) - sharp.max(2)).max() <= 2  # the value of HSV stays


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_scale", 0.0), ("min_scale", 1.5), ("flip", -0.1), ("gray", 2), ("blur", float("nan")),
     ("brightness", -1), ("erase", 1.5), ("hue", 0.6), ("contrast", float("inf"))],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError) as refused:
        SimClrViews(**{name: value})
    assert refused.value.problems[0].startswith(f"augment.{name}: {value}")
