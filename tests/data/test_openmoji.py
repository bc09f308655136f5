from pathlib import Path

import numpy as np
import pytest

from clipkit.data import load_data
from clipkit.data.decode import decode_image
from clipkit.data.openmoji import draw, list_emoji, load_openmoji, split_off
from clipkit.errors import ConfigError


def test_the_emoji_have_names_labels_and_drawings() -> None:
    emoji = list_emoji()
    found = {one.code: one for one in emoji}
    assert len(found) == len(emoji) > 3900
    assert found["1F436"].name == "dog face"
    assert found["1F436"].label == "animal-mammal"
    wave = found["1F44B-1F3FB"]
    assert (wave.base, wave.label) == ("1F44B", "hand-fingers-open")
    assert "light skin tone" in wave.name
    assert all(one.svg.is_file() for one in emoji[::100])


def test_the_split_is_a_function_of_the_codes() -> None:
    alone = {one.code: one.code for one in list_emoji()}
    test = split_off(alone, holdout=800)
    assert len(test) == 800
    backwards = dict(reversed(list(alone.items())))
    assert split_off(backwards, holdout=800) == test
    assert split_off(alone, holdout=100) < test


def test_groups_are_on_one_side() -> None:
    groups = {one.code: one.base for one in list_emoji()}
    test = split_off(groups, holdout=800)
    assert 790 <= len(test) <= 800
    sides: dict[str, set[bool]] = {}
    for code, group in groups.items():
        sides.setdefault(group, set()).add(code in test)
    assert all(len(side) == 1 for side in sides.values())


def test_no_drawing_is_on_both_sides() -> None:
    train, test = load_data("openmoji@train"), load_data("openmoji@test")
    assert len(test) == 800
    assert not set(train.image_keys()) & set(test.image_keys())


def test_pictures_are_drawn_once_on_white(tmp_path: Path) -> None:
    heart = next(one for one in list_emoji() if one.name == "red heart")
    told: list[tuple[int, int | None]] = []
    draw([(heart.svg, tmp_path / "heart.png")], 64, lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    pixels = np.asarray(decode_image(tmp_path / "heart.png")).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert (pixels[0, 0] == 255).all()
    red, green, _ = pixels[32, 32]
    assert red > 180 > green


@pytest.mark.slow
def test_all_of_openmoji(tmp_path: Path) -> None:
    samples = load_openmoji(size=32, cache_dir=tmp_path)
    assert len(samples) > 3900
    assert sum(sample.metadata["split"] == "test" for sample in samples) == 800
    for sample in samples[::97]:
        assert isinstance(sample.image, Path)
        assert decode_image(sample.image).size == (32, 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    load_openmoji(size=32, cache_dir=tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert callable(load_data)


@pytest.mark.slow
def test_variants_stay_on_one_side() -> None:
    train, test = load_data("openmoji_base@train"), load_data("openmoji_base@test")
    assert len(test) == 800
    sides = [{sample.metadata["base"] for sample in side} for side in (train, test)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) < len(test)  # there are variants


def test_sizes_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size must be at least 1"):
        load_openmoji(size=0, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="split_by: 'bases' is unknown; did you mean 'base'"):
        load_openmoji(split_by="bases", cache_dir=tmp_path)
