"""What the log of a run says of its steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipkit.data import load_data
from clipkit.data.views import SimClrViews
from clipkit.losses import NTXentLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.train.view_term import Views, ViewSettings
from tests.train.test_loop import run_fit

VIEWS = Views(ViewSettings(weight=0.5, head_hidden=8), NTXentLoss(temperature=0.5), SimClrViews())


def steps(folder: Path) -> list[dict[str, float]]:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_each_term_is_told_where_there_are_several(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    run_fit(make_model(), load_data(photos), tmp_path / "run", what="all", views=VIEWS)
    told = steps(tmp_path / "run")
    assert [event["step"] for event in told] == [1, 9]
    for event in told:
        assert event["loss"] == pytest.approx(event["pairs_loss"] + event["views_loss"])
        assert event["views_loss"] > 0


def test_one_alone_is_the_loss(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    model = make_model()
    run_fit(model, load_data(photos), tmp_path / "run", what="all", views=VIEWS, loss=None)
    assert all("views_loss" not in event for event in steps(tmp_path / "run"))


def test_features_that_stay_alike_are_told(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    """A loss that does not leave guessing, and features that are all alike: views have both."""
    model = make_model()
    told: list[str] = []
    for parameter in model.image_tower.parameters():
        parameter.data.zero_()
    assert isinstance(model.image_projection, Projection)
    torch.nn.init.ones_(model.image_projection.linear.bias)
    still = Views(ViewSettings(), NTXentLoss(temperature=0.5), SimClrViews())
    run_fit(
        model,
        load_data(photos),
        tmp_path / "run",
        what="projections",
        views=still,
        loss=None,
        epochs=40,
        on_note=told.append,
    )
    assert any(note.startswith("after 100 steps the loss has not left") for note in told)
    assert any("all image features are alike" in note for note in told)
