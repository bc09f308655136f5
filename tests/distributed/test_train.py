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


def launch(processes: int, recipe: Path, out: Path) -> str:
    accelerate = "accelerate.commands.launch"
    command = [sys.executable, "-m", accelerate, "--cpu", "--num_machines", "1"]
    command += ["--num_processes", str(processes), "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "clipkit", "train", str(recipe), f"out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_write_one_run_and_learn_what_one_learns(
    make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path
) -> None:
    make_model().save(str(tmp_path / "base"))
    settings = {
        "model": str(tmp_path / "base"),
        "data": {"train": str(photos)},
        "batch_size": 6,
        "epochs": 4,
        "optim": {"lr": 0.01, "warmup_steps": 5},
        "evaluate": {"mine": {"name": "retrieval", "data": str(photos)}},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    one, two = tmp_path / "one", tmp_path / "two"
    launch(1, recipe, one)
    told = launch(2, recipe, two)
    assert told.count("Before and after") == 1
    events = [json.loads(line)["event"] for line in (two / "log.jsonl").read_text().splitlines()]
    assert events.count("start") == events.count("after") == 1
    first, second = load(one / "model"), load(two / "model")
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-5)
