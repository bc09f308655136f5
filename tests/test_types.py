import dataclasses

import pytest

from clipkit.types import Reject, Sample


def test_samples_cannot_be_changed() -> None:
    sample = Sample("a", None, ("one",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.id = "b"  # type: ignore[misc]
    assert dataclasses.replace(sample, label="x").label == "x"


def test_metadata_is_not_shared() -> None:
    assert Sample("a", None).metadata is not Sample("b", None).metadata
    assert Reject("a", "why").where == ""
