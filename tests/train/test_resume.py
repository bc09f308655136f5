"""A run that is stopped, in any way, ends as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import clipkit
from clipkit.errors import ConfigError, Interrupted
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.watch import StepReport
from tests.processes import start_processes

Settings = dict[str, object]


@pytest.fixture
def settings(make_model: Callable[..., DualEncoder], photos: Path, tmp_path: Path) -> Settings:
    make_model(projection="mlp").save(str(tmp_path / "base"))
    return {
        "model": str(tmp_path / "base"),
        "data": {"train": str(photos)},
        "batch_size": 6,
        "epochs": 8,
        "dropout": 0.2,
        "precision": "float32",
        "flip": True,
        "optim": {"lr": 0.01, "warmup_steps": 3},
        "evaluate": {"mine": {"name": "retrieval", "data": str(photos), "every_steps": 5}},
        "checkpoints": {"every_steps": 2},
    }


def write(settings: Settings, path: Path) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def outcome(run: Path) -> dict[str, object]:
    """Return what must not differ: weights, optimiser, log, metrics."""
    last = max((run / "checkpoints").glob("step-*"))
    state = json.loads((last / "state.json").read_text())
    return {
        "weights": _bits(run / "model" / "model.safetensors"),
        "tensors": _bits(last / "tensors.safetensors"),
        "state": state,
        "log": (run / "log.jsonl").read_text(),
        "metrics": (run / "metrics.json").read_text(),
        "rejects": (run / "rejects.jsonl").read_text(),
    }


def _bits(path: Path) -> dict[str, bytes]:
    return {k: v.contiguous().numpy().tobytes() for k, v in load_file(path).items()}


@pytest.mark.parametrize("trainable", ["projections", "all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(
    settings: Settings, tmp_path: Path, trainable: str, number: signal.Signals
) -> None:
    recipe = write({**settings, "trainable": trainable, "epochs": 3}, tmp_path / "recipe.yaml")
    stop_and_go_on(recipe, tmp_path, number)


@pytest.mark.parametrize("loss", ["clip", None])
def test_what_views_need_goes_on_too(settings: Settings, tmp_path: Path, loss: str | None) -> None:
    """The head, the slow copy of the tower, and the queue."""
    views = {
        "loss": {"name": "moco", "queue_size": 16},
        "head_hidden": 8,
        "head_dim": 4,
        "momentum": 0.5,
    }
    wanted = {**settings, "trainable": "all", "epochs": 3, "loss": loss, "views": views}
    recipe = write(wanted, tmp_path / "recipe.yaml")
    stop_and_go_on(recipe, tmp_path, signal.SIGTERM)
    last = max((tmp_path / "whole" / "checkpoints").glob("step-*"))
    tensors = load_file(last / "tensors.safetensors")
    assert bool(tensors["views.loss.queue.written"].all())
    key, head = tensors["views.keys.head.layers.1.weight"], tensors["views.head.layers.1.weight"]
    assert not torch.equal(key, head)


def stop_and_go_on(recipe: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Stop runs of nine steps, and compare what comes of them with one that is not stopped."""
    clipkit.train(recipe, [f"out={tmp_path / 'whole'}"])

    def kill(report: StepReport) -> None:
        if report.step == stop_at:
            os.kill(os.getpid(), number)

    for stop_at in (1, 9):
        run = tmp_path / f"stopped at {stop_at}"
        if stop_at == 1:
            told = rf"stopped by {number.name} at step 1 of 9"
            with pytest.raises(Interrupted, match=told) as stopped:
                clipkit.train(recipe, [f"out={run}"], on_progress=kill)
            assert stopped.value.signal_number == number
            assert not (run / "metrics.json").exists()
        result = clipkit.train(recipe, [f"out={run}"])
        assert result.metrics["steps"] == 9
        assert outcome(run) == outcome(tmp_path / "whole")


def test_what_changed_meanwhile_is_refused(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    recipe = write(settings, tmp_path / "recipe.yaml")
    run = f"out={tmp_path / 'run'}"

    def kill(report: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        clipkit.train(recipe, [run], on_progress=kill)
    with pytest.raises(ConfigError, match="another recipe") as refused:
        clipkit.train(recipe, [run, "optim.lr=0.02", "epochs=9"])
    assert refused.value.problems == ("epochs: 8, not 9", "optim.lr: 0.01, not 0.02")
    caption = photos / "red0.txt"
    kept = caption.read_text()
    caption.write_text("another caption")
    with pytest.raises(ConfigError, match="what has changed since") as refused:
        clipkit.train(recipe, [run])
    assert refused.value.problems[0].startswith("data: sha256:")
    caption.write_text(kept)
    weights = tmp_path / "base"
    model = clipkit.load(weights)
    with torch.no_grad():
        model.log_logit_scale.add_(0.1)
    model.save(str(weights))
    with pytest.raises(ConfigError, match="model: sha256:"):
        clipkit.train(recipe, [run])
    assert clipkit.train(recipe, [run, "epochs=1"], restart=True).metrics["steps"] == 3


def test_a_finished_run_is_returned_as_it_is(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    recipe = write({**settings, "epochs": 2}, tmp_path / "recipe.yaml")
    run = f"out={tmp_path / 'run'}"
    first = clipkit.train(recipe, [run])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    again = clipkit.train(recipe, [run, "workers=0"])
    assert again.was_finished
    assert again.metrics == first.metrics
    assert again.model.fingerprint() == first.model.fingerprint()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    assert kept == written
    (photos / "red0.txt").write_text("another caption")
    with pytest.raises(ConfigError, match="was finished with other data"):
        clipkit.train(recipe, [run])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    settings: Settings, tmp_path: Path
) -> None:
    recipe = write({**settings, "epochs": 3}, tmp_path / "recipe.yaml")
    clipkit.train(recipe, [f"out={tmp_path / 'whole'}"])
    run = tmp_path / "run"

    def kill(report: StepReport) -> None:
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        clipkit.train(recipe, [f"out={run}"], on_progress=kill)
    whole = tmp_path / "whole" / "checkpoints" / "step-00000009"
    damaged = run / "checkpoints" / "step-00000009"
    damaged.mkdir()
    (damaged / "state.json").write_bytes((whole / "state.json").read_bytes())
    (damaged / "tensors.safetensors").write_bytes(b"half of it")
    clipkit.train(recipe, [f"out={run}"])
    assert outcome(run) == outcome(tmp_path / "whole")


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "clipkit", "train", str(recipe), f"out={out}"]


def run_once(words: list[str], processes: int, seconds: float | None) -> int:
    """Run a command in some processes, and kill all of them after a while; return how many failed.

    Whoever is left when another was killed waits for it, and fails or is killed as well.
    """
    started = start_processes(words, processes)
    timer = threading.Timer(seconds or 600, _kill, [started])
    timer.start()
    told = [process.communicate()[0].decode() for process in started]
    timer.cancel()
    failed = sum(bool(process.returncode) for process in started)
    if seconds is None:
        assert failed == 0, "".join(told)[-3000:]
    return failed


def _kill(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "workers", "trainable"),
    [(1, 0, "all"), (1, 2, "all"), (1, 0, "projections"), (2, 2, "all"), (2, 0, "projections")],
)
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    settings: Settings, tmp_path: Path, processes: int, workers: int, trainable: str
) -> None:
    """20 kills in all over the cases; `projections` has its features from the cache."""
    changed = {
        "trainable": trainable,
        "workers": workers,
        "epochs": 60,
        "augment": trainable == "all",
    }
    recipe = write({**settings, **changed}, tmp_path / "recipe.yaml")
    began = time.monotonic()
    run_once(command(recipe, tmp_path / "whole"), processes, None)
    whole = time.monotonic() - began
    chance = random.Random(f"{processes} {workers} {trainable}")
    killed = 0
    while killed < 4:
        code = run_once(
            command(recipe, tmp_path / "killed"), processes, chance.uniform(0.4, 0.95) * whole
        )
        killed += code != 0
        if code == 0:  # it came to its end: begin anew
            assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
            (tmp_path / "killed").rename(tmp_path / f"done {killed} {time.monotonic()}")
    run_once(command(recipe, tmp_path / "killed"), processes, None)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
