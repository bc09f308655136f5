import io
from typing import Any

import pytest
from rich.console import Console

from clipkit.report import terminal
from clipkit.report.terminal import (
    Bars,
    before_after,
    clock,
    rows,
    scores,
    trade_off,
)


def text(table: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_before_and_after_show_gain_and_loss() -> None:
    metrics = {
        "before": {
            "data": {"mine": {"text_to_image_r1": 0.1}},
            "general": {"photos": {"top1": 0.9, "classes": 20.0}},
        },
        "after": {
            "data": {"mine": {"text_to_image_r1": 0.625}},
            "general": {"photos": {"top1": 0.8, "classes": 20.0}},
        },
    }
    shown = text(before_after(metrics))
    for words in ("your data: mine", "text to image R@1", "10.0 %", "62.5 %", "+52.5"):
        assert words in shown
    for words in ("general: photos", "90.0 %", "80.0 %", "-10.0"):
        assert words in shown
    assert "classes" not in shown


def test_a_trade_off_shows_shares_and_the_recommended() -> None:
    points = [
        {
            "alpha": alpha,
            "gain_kept": gain_kept,
            "loss_suffered": None,
            "scores": {
                "data": {"mine": {"top1": 0.125 + alpha, "top5": 1.0}},
                "general": {"photos [x]": {"mean_recall": 0.75}},
            },
        }
        for alpha, gain_kept in ((0.0, 0.0), (0.5, 0.925))
    ]
    metrics = {"data": ["mine.top1"], "general": ["photos [x].mean_recall"]}
    shown = text(trade_off({"metrics": metrics, "recommended": 0.5, "points": points}))
    for words in ("mine: top1", "photos [x]: mean recall", "gain kept", "loss suffered"):
        assert words in shown
    base, best = (line.split("│")[1:-1] for line in shown.splitlines()[4:6])
    assert [cell.strip() for cell in base] == ["0", "12.5 %", "75.0 %", "0 %", "-", ""]
    assert [cell.strip() for cell in best] == [
        "0.5", "62.5 %", "75.0 %", "92 %", "-", "recommended",
    ]  # fmt: skip
    assert "top5" not in shown


def test_small_words() -> None:
    assert [clock(s) for s in (7.4, 754, 3723)] == ["0:07", "12:34", "1:02:03"]


def result(model: str, data: str, task: str, **metrics: float) -> dict[str, Any]:
    return {"model": model, "data": data, "task": task, "metrics": metrics}


def test_scores_of_one_model_have_it_in_the_title() -> None:
    one = result(
        "[red]m", "photos", "zero_shot", top1=0.5, top1_low=0.25, top1_high=0.75, classes=3
    )
    tables = scores([one])
    assert len(tables) == 1
    shown = text(tables[0])
    assert "Zero-shot classification of [red]m" in " ".join(shown.split())
    assert [line.split() for line in shown.splitlines()[-3:-1]] == [
        ["photos", "50.0", "%", "3"],
        ["25.0–75.0"],  # noqa: RUF001
    ]


def test_no_number_is_cut_in_80_columns() -> None:
    """A long name is folded instead."""
    values = {f"{way}_r{k}": 0.9 for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
    ends = {f"{name}{end}": 1.0 for name in values for end in ("_low", "_high")}
    ranks = {f"text_to_image_{kind}_rank": 1234.5 for kind in ("median", "mean")}
    told = result("m", "runs/a_folder_of_photographs", "retrieval", **values, **ends, **ranks)
    console = Console(file=io.StringIO(), width=80)
    console.print(scores([told])[0])
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert shown.count("100.0–100.0") == 6  # noqa: RUF001
    assert "mean 1,234.5" in shown


def test_scores_of_several_models_are_a_table_a_task() -> None:
    told = [
        result(model, "photos", task, **{name: 0.5})
        for model in "ab"
        for task, name in (("zero_shot", "top1"), ("geometry", "alignment"))
    ]
    tables = [text(table) for table in scores(told)]
    titles = [" ".join(shown.partition("model, data")[0].split()) for shown in tables]
    assert titles == ["Zero-shot classification", "Geometry"]
    assert all("model, data" in shown for shown in tables)
    assert "0.500" in tables[1]


def test_the_closing_table_has_no_ends_of_intervals_and_no_new_metrics() -> None:
    values = {
        "top1": 0.5, "top1_low": 0.4, "top1_high": 0.6, "ece": 0.1, "penalty": 0.1,
        "text_to_image_median_rank": 3.0, "text_to_image_mean_rank": 4.0, "d_positive": 1.25,
    }  # fmt: skip
    metrics = {"before": {"data": {"mine": values}}, "after": {"data": {"mine": values}}}
    shown = text(before_after(metrics))
    for words in ("top1", "50.0 %", "d positive", "1.250", "+0.000"):
        assert words in shown
    for words in ("low", "high", "ece", "penalty", "rank"):
        assert words not in shown


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    assert "[red]x[/red]" in text(rows(["a"], [["[red]x[/red]"]]))


def test_without_a_terminal_each_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        for done in range(101):
            bars.show("work", done, 100, "told")
        for done in (5, 20):
            bars.show("work", done, 20)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 13
    assert lines[1] == "work: 10/100 told"
    assert lines[-1].startswith("work: 20/20")
    assert terminal.out().width == 120


def test_the_pace_is_that_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    """What was done before it does not count, and a signal of life comes each tenth."""
    bars, clock = Bars(), [100.0]
    bars._progress.get_time = lambda: clock[0]
    with bars:
        tell = bars.follow("rows")
        tell(900, 1000)
        clock[0] += 10
        tell(950, 1000)
        clock[0] += 10
        tell(1000, 1000)
    told = capsys.readouterr().err
    assert "rows: 900/1000\n" in told
    assert "rows: 1000/1000 5/s" in told
    tell(10, 20)  # the same work once more
    clock[0] += 5
    tell(15, 20)
    assert "rows: 15/20 1/s, 0:05 left" in capsys.readouterr().err
