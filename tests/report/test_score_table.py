import pytest

from clipkit.report.score_table import (
    is_headline,
    is_share,
    markdown,
    percent,
    pretty,
    score_tables,
    shown,
    written,
)

RETRIEVAL = {
    "text_to_image_r1": 0.5,
    "text_to_image_r1_low": 0.25,
    "text_to_image_r1_high": 0.75,
    "image_to_text_r1": 0.125,
    "mean_recall": 0.3125,
    "text_to_image_median_rank": 2.5,
    "text_to_image_mean_rank": 1234.5,
}


def test_ways_have_rows_of_their_own() -> None:
    scores = [{"model": "m", "data": "d|e", "task": "retrieval", "metrics": RETRIEVAL}]
    (table,) = score_tables(scores)
    assert table.title == "Retrieval"
    assert table.columns == ("R@1", "median rank", "mean recall")
    there, back = table.rows
    assert (there.side, there.first, back.side, back.first) == (
        "text to image", True, "image to text", False,
    )  # fmt: skip
    assert [cell.line() for cell in there.cells] == [
        "50.0 % (25.0–75.0)",  # noqa: RUF001
        "2.5 (mean 1,234.5)",
        "31.2 %",
    ]
    assert [cell.line() for cell in back.cells] == ["12.5 %", "", ""]
    lines = markdown(scores).splitlines()
    assert lines[:4] == [
        "### Retrieval",
        "",
        "| model | data |  | R@1 | median rank | mean recall |",
        "| --- | --- | --- | --: | --: | --: |",
    ]
    assert lines[5] == "| m | d\\|e | image to text | 12.5 % |  |  |"


def test_metrics_that_one_score_lacks_are_empty() -> None:
    scores = [
        {"model": "m", "data": name, "task": "geometry", "metrics": metrics}
        for name, metrics in (
            ("a", {"d_positive": 1.0, "image_uniformity": -2.0}),
            ("b", {"d_positive": 1.0, "text_effective_rank": 20.0}),
        )
    ]
    (table,) = score_tables(scores)
    assert table.columns == ("d positive", "uniformity", "effective rank")
    values = [[cell.value for cell in row.cells] for row in table.rows]
    assert values == [
        ["1.000", "-2.000", ""],
        ["", "", ""],
        ["1.000", "", ""],
        ["", "", "20"],
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("top1", 0.12345, "12.3 %"),
        ("ece", 0.02, "2.0 %"),
        ("classes", 1000.0, "1000"),
        ("penalty", 3.16e-5, "3.2e-05"),
        ("modality_gap", 0.8251, "0.825"),
        ("image_effective_rank", 166.86, "166.9"),
        ("text_to_image_median_rank", 1.0, "1"),
    ],
)
def test_each_metric_is_written_by_what_it_is(name: str, value: float, words: str) -> None:
    assert written(name, value) == words


def test_what_is_what() -> None:
    assert is_share("ece")
    assert not is_share("image_uniformity")
    assert not shown("mean_recall_low")
    assert is_headline("mean_recall")
    assert not is_headline("ece")
    assert pretty("image_to_text_r10") == "image to text R@10"
    assert pretty("mean_recall") == "mean recall"
    assert percent(0.12345) == "12.3 %"
