import io

import pytest
from rich.console import Console

from clipkit.report import terminal
from clipkit.report.terminal import (
    Bars,
    before_after,
    clock,
    percent,
    pretty,
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
    assert pretty("image_to_text_r10") == "image to text R@10"
    assert pretty("mean_recall") == "mean recall"
    assert percent(0.12345) == "12.3 %"
    assert [clock(s) for s in (7.4, 754, 3723)] == ["0:07", "12:34", "1:02:03"]
    shown = text(scores({"zero": {"top1": 0.5, "classes": 3.0}}))
    assert "50.0 %" in shown
    assert " 3 " in shown


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
