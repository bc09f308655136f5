from pathlib import Path

import numpy as np

from clipkit.classify.pseudo_labels import Guesses
from clipkit.data import load_data
from clipkit.labelling.answers import Answers


def test_each_row_is_told_once_in_its_order(photos: Path) -> None:
    data = load_data(photos)
    data = type(data)(data.name, data.samples[:6])
    guesses = Guesses(
        ("red", "blue"),
        np.array([0, 1, 1, 0]),
        np.array([0.75, 0.5, 0.875, np.nan], np.float32),
        np.array([1, 0, 0, 0]),
        np.array([0.25, 0.5, 0.125, np.nan], np.float32),
        np.zeros(4, bool),
        {3: "broken"},
    )
    reasons = ["", "has one", "", "too low", "", "broken"]
    answers = Answers(data, {0: "red"}, {2: 0, 3: 1, 4: 2, 5: 3}, guesses, reasons)
    told = list(answers)
    assert [one.id for one in told] == [sample.id for sample in data]
    assert [one.reason for one in told] == reasons
    assert [one.label for one in told] == ["red", None, "red", "blue", "blue", None]
    assert [one.confidence for one in told] == [1.0, None, 0.75, 0.5, 0.875, None]
    assert [one.second for one in told] == [None, None, "blue", "red", "red", None]
    assert [one.second_confidence for one in told] == [None, None, 0.25, 0.5, 0.125, None]
    assert [one.given for one in told] == [True] + [False] * 5
    assert answers.files()
    cells = answers.cells()
    assert {label: [cell.title for cell in some] for label, some in cells.items()} == {
        "red": [f"0.750 {data[2].id}"],
        "blue": [f"0.875 {data[4].id}"],
    }
    assert cells["red"][0].lines == ("or blue 0.250",)
    assert cells["red"][0].image == data[2].image
