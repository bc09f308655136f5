"""Which rows are for what, and how much they weigh."""

import numpy as np
import pytest

from clipkit.data.dataset import Dataset
from clipkit.data.sources import Source, Sources
from clipkit.errors import DataError
from clipkit.types import Sample
from tests.conftest import square


def rows(*captions: str | None, **metadata: list[object]) -> Dataset:
    """Make rows with a picture, of which some have a caption."""
    told = [
        Sample(
            f"r{n}",
            square("red", n),
            () if caption is None else (caption,),
            metadata={key: values[n] for key, values in metadata.items()},
        )
        for n, caption in enumerate(captions)
    ]
    return Dataset("set", told)


def test_one_alone_serves_what_its_rows_allow() -> None:
    sources = Sources.of(rows("one", None, "two"))
    assert sources.rows("pairs").tolist() == [0, 2]
    assert sources.rows("views").tolist() == [0, 1, 2]
    (weights,) = sources.weights(sources.rows("pairs"))
    assert weights.tolist() == [1.0, 1.0]


def test_rows_are_for_what_their_source_says() -> None:
    sources = Sources(
        [
            Source("data", rows("one", "two"), objectives=("pairs",)),
            Source("more", rows("three", None), weight=0.5, objectives=("views",)),
            Source("both", rows("four", None), weight=2.0),
        ]
    )
    assert sources.rows("pairs").tolist() == [0, 1, 4]
    assert sources.rows("views").tolist() == [2, 3, 4, 5]
    told = [some.tolist() for some in sources.weights(sources.rows("pairs"))]
    assert told == [[1.0, 1.0], [2.0]]
    told = [some.tolist() for some in sources.weights(np.array([3, 4]))]
    assert told == [[0.5], [2.0]]


def test_one_alone_may_serve_one_thing_only() -> None:
    sources = Sources([Source("data", rows("one", None), objectives=("views",))])
    assert sources.rows("pairs").tolist() == []
    assert sources.rows("views").tolist() == [0, 1]


def test_a_column_multiplies_the_weight() -> None:
    data = rows("one", "two", "three", sure=[0.5, "0.25", 0])
    source = Source("data", data, weight=2.0, weight_column="sure")
    assert source.weights.tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("value", [None, "much", -0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(value: object) -> None:
    source = Source("data", rows("one", "two", sure=[1.0, value]), weight_column="sure")
    with pytest.raises(DataError, match=r"row r1 has .* in column 'sure'; a weight is a number"):
        _ = source.weights
