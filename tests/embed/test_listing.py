import os
from dataclasses import replace
from pathlib import Path

import pytest

from clipkit.embed.listing import ENTRY, entries, entry, image_state, listing
from clipkit.types import FileSlice, Sample
from tests.conftest import square

SAMPLE = Sample("a", Path("a.png"), ("one", "two"), "x", {"year": 1})


@pytest.mark.parametrize(
    "other",
    [
        replace(SAMPLE, id="b"),
        replace(SAMPLE, image=Path("b.png")),
        replace(SAMPLE, captions=("one two",)),
        replace(SAMPLE, captions=("two", "one")),
        replace(SAMPLE, label=None),
        replace(SAMPLE, metadata={"year": "1"}),
    ],
    ids=["id", "path", "captions", "order", "label", "metadata"],
)
def test_every_part_of_a_sample_counts(other: Sample) -> None:
    assert entry(SAMPLE, "") != entry(other, "")
    assert entry(SAMPLE, "") == entry(replace(SAMPLE, metadata={"year": 1}), "")


def test_the_state_of_a_file_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert image_state(path) == "absent"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    before = image_state(path)
    assert image_state(path) == before
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))  # the same size, and a false time
    assert image_state(path) != before
    part = FileSlice(path, 0, 2)
    assert image_state(part) != image_state(FileSlice(path, 1, 2))


def test_the_state_of_what_is_in_memory() -> None:
    assert image_state(b"one") != image_state(b"two")
    assert image_state(square("red")) == image_state(square("red"))
    assert image_state(square("red")) != image_state(square("red", 1))
    assert image_state(None) == "none"


def test_entries_follow_each_other(tmp_path: Path) -> None:
    samples = [replace(SAMPLE, id=str(number)) for number in range(5)]
    joined = entries(samples, images=True)
    assert len(joined) == 5 * ENTRY
    assert joined == entries(samples[:2], images=True) + entries(samples[2:], images=True)
    assert listing("columns", joined) != listing("others", joined)
    assert entries(samples, images=False) != joined
