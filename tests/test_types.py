import dataclasses

import pytest

from clipkit.types import Preprocessing, Reject, Sample, per_channel


def test_samples_cannot_be_changed() -> None:
    sample = Sample("a", None, ("one",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.id = "b"  # type: ignore[misc]
    assert dataclasses.replace(sample, label="x").label == "x"


def test_metadata_is_not_shared() -> None:
    assert Sample("a", None).metadata is not Sample("b", None).metadata
    assert Reject("a", "why").where == ""


def test_settings_that_came_later_leave_old_fingerprints_as_they_were() -> None:
    half = (0.5, 0.5, 0.5)
    plain = Preprocessing(size=32, mean=half, std=half)
    assert set(plain.settings()) == {"size", "mean", "std", "interpolation", "resize", "resize_to"}
    assert dataclasses.replace(plain, crop="floor").settings()["crop"] == "floor"


def test_one_number_stands_for_all_channels() -> None:
    assert per_channel(2) == per_channel([2, 2, 2]) == (2.0, 2.0, 2.0)
    assert per_channel((1, 2, 3)) == (1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="unpack"):
        per_channel([1, 2])
