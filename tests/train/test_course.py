import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.errors import ConfigError, Interrupted
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.signals import StopSignals
from clipkit.train.batches import BatchSettings, PairBatches
from clipkit.train.checkpoint import CheckpointSettings, read_state
from clipkit.train.course import SAVE, Course, Scorings
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.feed import Feed
from clipkit.train.kept import Selection
from clipkit.train.optim import OptimSettings, build_optimizer
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring

NEVER = CheckpointSettings(every_minutes=0)


class Script:
    """An evaluator whose values are given; sends a signal at one of its calls."""

    def __init__(self, values: Sequence[float] = (), signal_at: int = -1) -> None:
        self.values, self.calls, self.signal_at = values, 0, signal_at

    def __call__(self, model: DualEncoder, encoder: object = None) -> dict[str, float]:
        if self.calls == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.calls += 1
        return {"value": self.values[min(self.calls, len(self.values)) - 1] if self.values else 0.0}


class Tracker:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))


class Bench:
    """Makes courses of one run, the later ones where the earlier ones were stopped."""

    def __init__(self, make_model: Callable[..., DualEncoder], data: Dataset, folder: Path) -> None:
        self.make_model, self.data, self.folder = make_model, data, folder
        self.stop = StopSignals()
        self.run: RunFolder | None = None

    def course(self, *scorings: Scoring, **options: Any) -> Course:
        if self.run is not None:
            self.run.close()
        self.run = RunFolder(self.folder / "run")
        model = self.make_model()
        set_trainable(model, "projections")
        cache = FeatureCache(self.folder / "cache")
        given: dict[str, Any] = {
            "steps": 10,
            "selection": Selection(),
            "settings": NEVER,
            "identity": ("data", "model"),
            **options,
        }
        return Course(
            model,
            Feed(PairBatches(model, self.data, cache, BatchSettings(batch_size=6), seed=0)),
            build_optimizer(model, OptimSettings()),
            scorings=Scorings(scorings),
            cache=cache,
            run=self.run,
            stop=self.stop,
            **given,
        )

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(x) for x in (self.folder / "run/log.jsonl").read_text().splitlines()]

    def checkpoints(self) -> list[int]:
        return [int(path.name[5:]) for path in sorted(self.folder.glob("run/checkpoints/step-*"))]


@pytest.fixture
def bench(make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path) -> Any:
    bench = Bench(make_model, load_data(photos), tmp_path)
    with bench.stop:
        yield bench
    if bench.run is not None:
        bench.run.close()


def step_to(course: Course, step: int, signal: int = 0) -> None:
    """Take steps that move the model to where its scale tells which one it was."""
    while course.state.step < step:
        course.state.step += 1
        with torch.no_grad():
            course.model.log_logit_scale.fill_(course.state.step / 100)
        course.after_step(signal if course.state.step == step else 0)


def scoring(prefix: str, evaluator: Script, every: int = 0) -> Scoring:
    return Scoring("data", prefix, evaluator, every)


def test_each_is_scored_when_it_is_due(bench: Bench) -> None:
    scripts = [Script() for _ in range(3)]
    course = bench.course(
        scoring("a", scripts[0]), scoring("b", scripts[1], 2), scoring("c", scripts[2], 3)
    )
    assert [script.calls for script in scripts] == [1, 1, 1]
    step_to(course, 10)
    assert [script.calls for script in scripts] == [1, 5, 4]  # not at 10: its scores come after
    told = [(event["step"], set(event["scores"]["data"])) for event in bench.log()[2:]]
    assert told == [
        (2, {"b"}), (3, {"c"}), (4, {"b"}), (6, {"b", "c"}), (8, {"b"}), (9, {"c"}),
    ]  # fmt: skip
    assert course.ended
    course.finish()
    assert [script.calls for script in scripts] == [2, 6, 5]


def test_the_metric_that_chooses_may_come_at_steps_of_its_own(bench: Bench) -> None:
    script = Script([0.1, 0.9, 0.5, 0.4])
    course = bench.course(
        scoring("often", Script(), 1), scoring("best", script, 4), selection=Selection("best.value")
    )
    step_to(course, 10)
    course.finish()
    assert course.state.kept_step == 4
    assert round(100 * course.model.log_logit_scale.item()) == 4


def test_the_metric_that_chooses_may_come_at_the_ends_alone(bench: Bench) -> None:
    course = bench.course(
        scoring("often", Script(), 5),
        scoring("best", Script([0.1, 0.2])),
        selection=Selection("best.value"),
    )
    step_to(course, 10)
    course.finish()
    assert course.state.kept_step == 10


def test_patience_ends_it_and_nothing_is_scored_twice(bench: Bench) -> None:
    script = Script([0.1, 0.5, 0.4, 0.3])
    course = bench.course(
        scoring("s", script, 2), selection=Selection("s.value", patience=2), steps=40
    )
    for step in range(1, 7):
        assert not course.ended
        step_to(course, step)
    assert course.ended
    course.finish()
    assert [event["step"] for event in bench.log() if event["event"] == "scores"] == [2, 4, 6]
    assert script.calls == 5
    assert course.state.kept_step == 2


def test_it_is_saved_before_it_is_scored(bench: Bench) -> None:
    script = Script()
    course = bench.course(scoring("s", script, 4))
    step_to(course, 3)
    assert bench.checkpoints() == []
    step_to(course, 4)
    step_to(course, 6, signal=SAVE)
    assert bench.checkpoints() == [4, 6]
    step_to(course, 10)
    assert bench.checkpoints() == [8, 10]


def test_a_signal_saves_and_stops(bench: Bench) -> None:
    script = Script()
    course = bench.course(scoring("s", script, 3))
    with pytest.raises(Interrupted, match="stopped by SIGUSR1 at step 3 of 10") as stopped:
        step_to(course, 3, signal=signal.SIGUSR1)
    assert stopped.value.signal_number == signal.SIGUSR1
    assert bench.checkpoints() == [3]
    assert script.calls == 1  # what is due comes when it goes on
    again = bench.course(scoring("s", script, 3))
    assert again.state.step == 3
    assert round(100 * again.model.log_logit_scale.item()) == 3
    assert script.calls == 1
    again.go_on()
    assert script.calls == 2


def test_a_signal_between_the_steps_needs_nobodys_word(bench: Bench) -> None:
    course = bench.course()
    assert course.signal() == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert course.signal() == signal.SIGTERM
    with pytest.raises(Interrupted, match="SIGTERM at step 1"):
        step_to(course, 1)


@pytest.mark.parametrize("at", ["before", "between", "after"])
def test_a_signal_while_it_is_scored(bench: Bench, at: str) -> None:
    script = Script(signal_at=["before", "between", "after"].index(at))
    if at == "before":
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            bench.course(scoring("s", script, 5))
        assert bench.checkpoints() == []
        return
    course = bench.course(scoring("s", script, 5))
    with pytest.raises(Interrupted, match="the same command goes on") as stopped:
        step_to(course, 10)
        course.finish()
    step = 5 if at == "between" else 10
    assert f"at step {step} of 10 and saved" in str(stopped.value)
    assert bench.checkpoints()[-1] == step
    assert bench.log()[-1]["event"] != "after"


def test_the_clock_asks_for_a_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    course = bench.course(settings=CheckpointSettings(every_minutes=1))
    assert course.signal() == 0
    now = 61.0
    assert course.signal() == SAVE
    step_to(course, 1, signal=SAVE)
    assert course.signal() == 0
    every = bench.course(settings=CheckpointSettings(every_steps=4, every_minutes=0))
    assert every.state.step == 1
    told = []
    for step in range(2, 9):
        told.append(every.signal())
        step_to(every, step)
    assert told == [0, 0, SAVE, 0, 0, 0, SAVE]


def test_it_goes_on_where_it_was(bench: Bench) -> None:
    """With the log as it was at the checkpoint, and its size as it is then: also after a cut."""
    course = bench.course(scoring("s", Script([0.5]), 5))
    course.state.notes["stuck"] = "the note"
    course.state.lowest_loss = 0.25
    assert course.feed.shorten is not None
    course.feed.shorten.seen = 77
    step_to(course, 3, signal=SAVE)
    kept = (bench.folder / "run/log.jsonl").read_bytes()
    step_to(course, 4)
    course.run.log("more", text="x" * 500)
    again = bench.course(scoring("s", Script(), 5))
    assert (bench.folder / "run/log.jsonl").read_bytes() == kept
    assert again.state.step == 3
    assert again.state.notes == {"stuck": "the note"}
    assert again.state.lowest_loss == 0.25
    assert again.state.before == {"data": {"s": {"value": 0.5}}}
    assert again.feed.shorten is not None
    assert again.feed.shorten.seen == 77
    again.state.step = 5
    again.save()
    assert read_state(bench.folder / "run/checkpoints/step-00000005").log_size == len(kept)
    assert again.first_logit_scale == course.first_logit_scale


def test_only_with_what_it_began_with(bench: Bench) -> None:
    course = bench.course()
    step_to(course, 2, signal=SAVE)
    with pytest.raises(ConfigError, match="was stopped at step 2 and cannot") as refused:
        bench.course(identity=("other data", "model"))
    assert refused.value.problems == ("data: data then, other data now",)
    with pytest.raises(ConfigError) as refused:
        bench.course(identity=("other", "another"))
    assert len(refused.value.problems) == 2
    assert bench.course().state.step == 2


def test_trackers_hear_of_all_scores(bench: Bench) -> None:
    tracker = Tracker()
    course = bench.course(scoring("s", Script([0.1, 0.2, 0.3]), 6), tracker=tracker)
    step_to(course, 10)
    course.finish()
    assert tracker.told == [(0, {"s.value": 0.1}), (6, {"s.value": 0.2}), (10, {"s.value": 0.3})]
