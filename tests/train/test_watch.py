import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipkit.train.batches import PairBatch
from clipkit.train.feed import StepBatch
from clipkit.train.run_log import RunFolder
from clipkit.train.watch import StepReport, Watch


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def run(clock: Clock, tmp_path: Path) -> Iterator[RunFolder]:
    run = RunFolder(tmp_path / "run")
    yield run
    run.close()


def timings(run: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.path / "timings.jsonl").read_text().splitlines()]


def test_it_tells_how_far_and_how_fast(clock: Clock, run: RunFolder) -> None:
    told: list[StepReport] = []
    watch = Watch(0, 10, 8, run, told.append)
    for step in range(1, 5):
        clock.now += 2.0
        watch.tell(step, 0.5, 14.0)
    assert told[-1] == StepReport(4, 10, 0.5, 14.0, rate=4.0, seconds_left=12.0)
    assert timings(run)[-1] == {
        "event": "step",
        "seconds": 8.0,
        "step": 4,
        "train_seconds": 8.0,
        "pairs_per_second": 4.0,
        "waited_seconds": 0.0,
    }


def test_a_run_that_goes_on_counts_its_own_steps(clock: Clock, run: RunFolder) -> None:
    told: list[StepReport] = []
    watch = Watch(90, 100, 8, run, told.append)
    clock.now += 5.0
    watch.tell(95, 0.5, 14.0)
    assert (told[0].rate, told[0].seconds_left) == (8.0, 5.0)


def test_about_twice_a_second_and_at_the_end(clock: Clock, run: RunFolder) -> None:
    told: list[StepReport] = []
    watch = Watch(0, 100, 8, run, told.append)
    for step in range(1, 101):
        clock.now += 0.125
        watch.tell(step, 0.5, 14.0)
    assert [report.step for report in told] == [*range(1, 98, 4), 100]
    assert len(timings(run)) == len(told)


def test_pauses_are_not_training(clock: Clock, run: RunFolder) -> None:
    told: list[StepReport] = []
    watch = Watch(0, 10, 8, run, told.append)
    clock.now += 1.0
    with watch.paused():
        clock.now += 100.0
    with pytest.raises(ValueError, match="x"), watch.paused():
        clock.now += 50.0
        raise ValueError("x")
    assert watch.seconds() == 1.0
    watch.tell(1, 0.5, 14.0)
    assert (told[0].rate, told[0].seconds_left) == (8.0, 9.0)


def test_waiting_for_batches_is_counted(clock: Clock, run: RunFolder) -> None:
    watch = Watch(0, 10, 8, run, None)
    one = torch.zeros(2, dtype=torch.long)
    batch = StepBatch(PairBatch(torch.zeros(2, 3), torch.zeros(2, 3), one, None, one, one))

    def slow() -> Iterator[StepBatch]:
        for _ in range(3):
            clock.now += 2.0
            yield batch

    for passed in watch.waiting(slow()):
        assert passed is batch
        clock.now += 10.0
    assert watch.waited == 6.0
    assert watch.seconds() == 36.0


def test_which_steps_the_log_has(clock: Clock, run: RunFolder) -> None:
    watch = Watch(0, 25, 8, run, None)
    assert [step for step in range(1, 26) if watch.logs(step)] == [1, 10, 20, 25]


def test_other_processes_say_nothing(clock: Clock, tmp_path: Path) -> None:
    told: list[StepReport] = []
    silent = RunFolder(tmp_path / "run", writes=False)
    watch = Watch(0, 10, 8, silent, told.append)
    clock.now += 1.0
    watch.tell(10, 0.5, 14.0)
    assert not told
    assert not (tmp_path / "run").exists()
