import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipkit.errors import ConfigError, MissingExtraError
from clipkit.report import trade_off
from clipkit.report.trade_off import check_plot, draw_trade_off, labelled


def summary(recommended: float | None = 0.5) -> dict[str, Any]:
    alphas = [0, 0.25, 0.5, 0.75, 1]
    return {
        "metrics": {"data": ["mine.top1"], "general": ["photos.mean_recall", "labels.top1"]},
        "recommended": recommended,
        "points": [{"alpha": a, "data": 0.1 + 0.5 * a, "general": 0.9 - a**2 / 3} for a in alphas],
    }


def words(path: Path) -> list[str]:
    """Return what an svg says: its letters are drawn, and written down as comments."""
    return [" ".join(said.split()) for said in re.findall("<!--(.*?)-->", path.read_text(), re.S)]


def test_a_plot_says_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    draw_trade_off(summary(), path)
    said = words(path)
    for text in (
        "your data, % (mine: top1)",
        "not to be forgotten, % (mean of photos: mean recall, labels: top1)",
        "base (alpha 0)",
        "tuned (alpha 1)",
        "recommended (alpha 0.5)",
    ):
        assert text in " ".join(said)  # a broken line is two
    assert {"0", "0.25", "0.5", "0.75", "1"} <= set(said)


@pytest.mark.parametrize(
    ("recommended", "there"), [(1, "tuned, recommended (alpha 1)"), (None, "tuned (alpha 1)")]
)
def test_the_tuned_model_itself_or_none(
    tmp_path: Path, recommended: float | None, there: str
) -> None:
    draw_trade_off(summary(recommended), tmp_path / "plot.svg")
    lines = words(tmp_path / "plot.svg")
    assert [line for line in lines if "(alpha" in line] == ["base (alpha 0)", there]


def test_a_picture_of_points_that_are_all_the_same(tmp_path: Path) -> None:
    flat = summary(None)
    for point in flat["points"]:
        point.update(data=0.5, general=0.5)
    draw_trade_off(flat, tmp_path / "plot.PNG")
    with Image.open(tmp_path / "plot.PNG") as image:
        assert image.format == "PNG"
        assert image.width > 900
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_labels_keep_their_distance() -> None:
    spots = [(float(x), float(x % 3)) for x in range(0, 40, 2)]
    chosen = labelled(spots, first=[0, 19, 7], apart=5.0)
    assert {0, 19, 7} <= set(chosen)
    for one, other in combinations(chosen, 2):
        apart = [abs(a - b) for a, b in zip(spots[one], spots[other], strict=True)]
        assert sum(apart) >= 5
    for at in set(range(len(spots))) - set(chosen):
        apart = [sum(abs(a - b) for a, b in zip(spots[at], spots[o], strict=True)) for o in chosen]
        assert min(apart) < 5
    assert labelled([(0.0, 0.0), (1.0, 0.0)], first=[0, 1], apart=5) == [1]


def test_what_cannot_be_drawn_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"plot\.doc ends in none of \.png, \.pdf, \.svg"):
        check_plot(tmp_path / "plot.doc")

    def absent(package: str, *, what: str, extra: str) -> Path:
        assert package == "matplotlib"
        raise MissingExtraError(what, extra)

    monkeypatch.setattr(trade_off, "package_folder", absent)
    with pytest.raises(MissingExtraError, match=r'A plot needs .*pip install "clipkit\[report\]"'):
        draw_trade_off(summary(), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
