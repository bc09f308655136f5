"""Several data sets as one, against each of them."""

from pathlib import Path

import numpy as np
import pytest

from clipkit.data import load_data
from clipkit.data.dataset import Dataset, text_key
from clipkit.data.joined import join_data
from clipkit.data.label_captions import caption_labels
from clipkit.types import Reject, Sample
from tests.conftest import COLOURS, square


def write(path: Path, number: int) -> Path:
    square(list(COLOURS)[number], 0).save(path)
    return path


@pytest.fixture
def captioned(tmp_path: Path) -> Dataset:
    rows = [Sample(f"r{n}", write(tmp_path / f"a{n}.png", n), (f"text {n}",)) for n in range(3)]
    return Dataset("one", rows, rejects=(Reject("bad", "why"),))


@pytest.fixture
def labelled(tmp_path: Path) -> Dataset:
    rows = [Sample(f"r{n}", write(tmp_path / f"b{n}.png", n + 1), label="cat") for n in range(2)]
    return Dataset("two", rows, class_names=("cat",))


def test_rows_follow_one_another_under_names_of_their_own(
    captioned: Dataset, labelled: Dataset
) -> None:
    both = join_data([("data", captioned), ("more", labelled)])
    assert [sample.id for sample in both] == ["data/r0", "data/r1", "data/r2", "more/r0", "more/r1"]
    assert [both[at].id for at in range(5)] == [sample.id for sample in both]
    assert both.samples[-1].id == "more/r1"
    assert [sample.id for sample in both.samples[2:4]] == ["data/r2", "more/r0"]
    with pytest.raises(IndexError, match="sample 5 of 5"):
        both[5]
    assert both.rejects == (Reject("data/bad", "why"),)
    assert both.class_names == ("cat",)
    assert both.name == "one + two"


def test_what_is_said_of_rows_is_what_each_part_says(captioned: Dataset, labelled: Dataset) -> None:
    both = join_data([("data", captioned), ("more", labelled)])
    assert both.image_keys() == captioned.image_keys() + labelled.image_keys()
    assert both.image_keys()[1] == both.image_keys()[3]  # one picture in both
    np.testing.assert_array_equal(both.captioned(), [0, 1, 2])
    np.testing.assert_array_equal(both.pictured(), range(5))


def test_captions_of_one_label_are_alike_in_the_whole(
    captioned: Dataset, labelled: Dataset
) -> None:
    told = caption_labels(labelled, ["a {}", "one {}"])
    both = join_data([("data", captioned), ("more", told)])
    assert both.caption_key("a cat") == both.caption_key("one cat")
    assert both.caption_key("Text  0") == text_key("text 0")
    np.testing.assert_array_equal(both.captioned(), range(5))


def test_the_fingerprint_is_that_of_the_parts(captioned: Dataset, labelled: Dataset) -> None:
    one = join_data([("data", captioned), ("more", labelled)]).fingerprint()
    assert one == join_data([("data", captioned), ("more", labelled)]).fingerprint()
    assert one != join_data([("more", labelled), ("data", captioned)]).fingerprint()
    assert one != join_data([("data", captioned), ("more", captioned)]).fingerprint()


def test_one_alone_stays_as_it_is(captioned: Dataset) -> None:
    assert join_data([("data", captioned)]) is captioned


def test_a_folder_joins_too(photos: Path, captioned: Dataset) -> None:
    data = load_data(photos)
    both = join_data([("data", data), ("more", captioned)])
    assert len(both) == len(data) + 3
    assert both[len(data)].captions == ("text 0",)
