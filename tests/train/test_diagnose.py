import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from clipkit.train.diagnose import Sight, diagnose, diagnose_waiting, mean_cosine

GUESS = math.log(64)
WELL = Sight(
    step=100,
    lowest_loss=1.0,
    guess=GUESS,
    softmax=True,
    logit_scale=30.0,
    first_logit_scale=14.0,
    cosines={"image": 0.3, "text": 0.4},
    duplicates=0.02,
)


def notes(how: str = "positive", /, **values: Any) -> dict[str, str]:
    return dict(diagnose(replace(WELL, **values), duplicates=how))


def test_a_run_that_goes_well_hears_nothing() -> None:
    assert notes() == {}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lowest_loss": GUESS}, True),
        ({"lowest_loss": 0.98 * GUESS}, True),
        ({"lowest_loss": 0.96 * GUESS}, False),
        ({"lowest_loss": GUESS, "step": 99}, False),
        ({"lowest_loss": GUESS, "guess": None}, False),
        ({"lowest_loss": 0.99 * math.log(8), "guess": math.log(8)}, True),
        ({"lowest_loss": 0.99 * math.log(8), "guess": math.log(16)}, False),
    ],
)
def test_a_loss_that_does_not_leave_guessing(values: dict[str, Any], said: bool) -> None:
    found = notes(**values)
    assert set(found) == ({"stuck"} if said else set())
    if said:
        guess = values.get("guess", GUESS)
        assert f"after 100 steps the loss has not left {guess:.2f}" in found["stuck"]
        assert "optim.lr" in found["stuck"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"logit_scale": 100.0}, True),
        ({"logit_scale": 99.95, "step": 3}, True),
        ({"logit_scale": 99.0}, False),
        ({"logit_scale": 100.0, "first_logit_scale": 100.0}, False),
        ({"logit_scale": 117.0, "softmax": False}, False),
    ],
)
def test_a_scale_that_reached_its_cap(values: dict[str, Any], said: bool) -> None:
    """Not one that began there, as that of many models does, nor a sigmoid's, which has none."""
    found = notes(**values)
    assert set(found) == ({"scale_at_cap"} if said else set())
    if said:
        assert "cap of 100 at step" in found["scale_at_cap"]


@pytest.mark.parametrize("side", ["image", "text"])
def test_features_that_are_all_alike(side: str) -> None:
    found = notes(cosines={side: 0.991})
    assert set(found) == {f"{side}_collapse"}
    assert f"all {side} features are alike at step 100 (mean cosine 0.991)" in next(
        iter(found.values())
    )
    assert not notes(cosines={side: 0.979})
    assert not notes(cosines={side: 0.999}, step=10)


@pytest.mark.parametrize(
    ("how", "meaning"),
    [
        ("positive", "count as positives"),
        ("mask", "left out as negatives"),
        ("ignore", "write duplicates: positive"),
    ],
)
def test_many_duplicates(how: str, meaning: str) -> None:
    found = notes(how, duplicates=0.25, step=1)
    assert set(found) == {"duplicates"}
    assert "25% of the pairs of step 1" in found["duplicates"]
    assert meaning in found["duplicates"]
    assert not notes(how, duplicates=0.1)


def test_several_things_at_once() -> None:
    alike = {"image": 1.0, "text": 1.0}
    found = notes(lowest_loss=GUESS, cosines=alike, duplicates=1.0)
    assert set(found) == {"stuck", "image_collapse", "text_collapse", "duplicates"}


def test_waiting_for_images() -> None:
    told = diagnose_waiting(waited=30.0, seconds=40.0, pairs=800)
    assert told is not None
    assert "waits 75% of the time" in told
    assert "they come at 20 a second and it could take 80" in told
    assert "raise workers" in told
    assert diagnose_waiting(waited=11.0, seconds=40.0, pairs=800) is None
    assert diagnose_waiting(waited=19.0, seconds=19.5, pairs=800) is None


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_mean_cosine_against_a_loop(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    features = nn.functional.normalize(torch.randn(rows, 5, generator=generator), dim=1)
    cosines = [float(features[i] @ features[j]) for i in range(rows) for j in range(rows) if i != j]
    expected = sum(cosines) / len(cosines) if cosines else 0.0
    assert mean_cosine(features) == pytest.approx(expected, abs=1e-6)
