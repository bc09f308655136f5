"""Two processes on a CPU: the run folder is written once, and the model is one model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from tests.processes import start_processes


def launch(processes: int, recipe: Path, out: Path) -> str:
    words = [sys.executable, "-m", "clipkit", "train", str(recipe), f"out={out}"]
    started = start_processes(words, processes)
    told = [process.communicate(timeout=300)[0].decode() for process in started]
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text[-3000:]
    return "".join(told)


@pytest.fixture
def recipe(make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path) -> Path:
    make_model().save(str(tmp_path / "base"))
    settings = {
        "model": str(tmp_path / "base"),
        "data": {"train": str(photos)},
        "batch_size": 6,
        "epochs": 4,
        "optim": {"lr": 0.01, "warmup_steps": 5},
        "evaluate": {"mine": {"name": "retrieval", "data": str(photos)}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_accelerate_launch_starts_two_processes_that_write_one_run(
    recipe: Path, tmp_path: Path
) -> None:
    """With one command on GPUs and, as here, on a CPU."""
    out = tmp_path / "two"
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    words += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--dynamo_backend", "no", "--main_process_port", "0"]
    words += ["-m", "clipkit", "train", str(recipe), f"out={out}", "epochs=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Before and after") == 1
    times = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert [event["processes"] for event in times if event["event"] == "began"] == [2]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["after"] != metrics["before"]


@pytest.mark.slow
def test_two_processes_write_one_run_and_learn_what_one_learns(
    recipe: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch(1, recipe, one)
    told = launch(2, recipe, two)
    assert told.count("Before and after") == 1
    events = [json.loads(line)["event"] for line in (two / "log.jsonl").read_text().splitlines()]
    assert events.count("start") == events.count("after") == 1
    first, second = load(one / "model"), load(two / "model")
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-5)


# What one of two processes sees and the other does not, in a program of its own.
ALONE = """
import os, signal, sys
from clipkit.cli import main
from clipkit.train import course, watch

rank, what = int(os.environ["RANK"]), sys.argv[1]
tell, score, calls = watch.Watch.tell, course.score, [0]

def tell_and_kill(self, step, loss, scale):
    tell(self, step, loss, scale)
    if what == "signal" and rank == 1 and step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

def score_by_rank(*given):
    scores = score(*given)
    calls[0] += 1
    if what == "scores":  # they fall for the first, and rise for the second
        scores["data"]["mine"]["mean_recall"] = calls[0] * (-0.1, 0.1)[rank]
    return scores

watch.Watch.tell, course.score = tell_and_kill, score_by_rank
main(sys.argv[2:])
"""


def launch_alone(what: str, *words: str) -> list[int]:
    """Return the exit codes of two processes."""
    started = start_processes([sys.executable, "-c", ALONE, what, "train", *words], 2)
    try:
        for process in started:
            process.communicate(timeout=240)
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert launch_alone("signal", str(recipe), f"out={out}") == [143, 143]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    launch(2, recipe, out)
    launch(2, recipe, tmp_path / "whole")
    logs = [(folder / "log.jsonl").read_text() for folder in (out, tmp_path / "whole")]
    assert logs[0] == logs[1]
    models = [(folder / "model/model.safetensors") for folder in (out, tmp_path / "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.slow
def test_processes_that_score_otherwise_go_by_the_first(recipe: Path, tmp_path: Path) -> None:
    """Else the one that has lost its patience would leave the other waiting for ever."""
    words = [str(recipe), f"out={tmp_path / 'run'}", "patience=2", "evaluate.mine.every_steps=1"]
    assert launch_alone("scores", *words) == [0, 0]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["best"]["step"]) == (2, 0)
