"""Exports that are killed at random moments, and go on, in one process and in two.

`CLIPKIT_KILLS` says how often, `CLIPKIT_KILL_DATA` and `CLIPKIT_KILL_MODEL` on what:

    CLIPKIT_KILLS=30 CLIPKIT_KILL_DATA=photos/ CLIPKIT_KILL_MODEL=starter pytest -m slow \
        tests/embed/test_kill.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.store import EmbeddingStore
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import COLOURS, square
from tests.embed.stores import same_files
from tests.processes import start_processes, told_to_process

KILLS = int(os.environ.get("CLIPKIT_KILLS", "3"))
LONGEST = 12
"""Seconds until a kill; each run goes on where the last one was, so all of the work is met."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some hundred pictures, one in fifty of which is none; or what the environment names."""
    if "CLIPKIT_KILL_DATA" in os.environ:
        return Path(os.environ["CLIPKIT_KILL_DATA"])
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1500):
        square(list(COLOURS)[number % 6], number).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text("a photo\n")
    for number in range(7, 1500, 150):
        (folder / f"{number:04d}.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def trained(model: DualEncoder, tmp_path: Path) -> str:
    if "CLIPKIT_KILL_MODEL" in os.environ:
        return os.environ["CLIPKIT_KILL_MODEL"]
    model.save(str(tmp_path / "model"))
    return str(tmp_path / "model")


def command(folder: Path, model: str, out: Path) -> list[str]:
    words = [sys.executable, "-m", "clipkit", "embed", str(folder), "--model", model]
    words += ["--out", str(out), "--shard-rows", "700", "--max-rejected", "0.05"]
    return [*words, "--batch-size", "3"]


def finish(words: list[str], processes: int) -> str:
    """Run a command to its end in some processes; return what they say."""
    started = start_processes(words, processes)
    told = [process.communicate(timeout=1800)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * processes, "".join(told)[-3000:]
    return "".join(told)


def wait_until_at_work(out: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """Return when something was written, or all processes have ended."""
    at_work = next((out / ".work" / "parts").glob("*/*.part"), None)
    while at_work is None and any(process.poll() is None for process in started):
        time.sleep(0.02)
        at_work = next((out / ".work" / "parts").glob("*/*.part"), None)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    folder: Path, trained: str, tmp_path: Path, processes: int
) -> None:
    """Nothing is begun anew: each run adds to what the one before it left."""
    words = command(folder, trained, tmp_path / "whole")
    whole = start_processes(words, processes)
    wait_until_at_work(tmp_path / "whole", whole)
    began = time.monotonic()
    assert [process.communicate() and process.returncode for process in whole] == [0] * processes
    took = time.monotonic() - began
    chance = random.Random(processes)
    out, killed, ended = tmp_path / "killed", 0, 0
    while killed < KILLS:
        started = start_processes(command(folder, trained, out), processes)
        if killed % 4:  # else while it begins
            wait_until_at_work(out, started)
        time.sleep(chance.uniform(0, min(took, LONGEST)))
        for process in started:
            process.kill()
        codes = [process.communicate() and process.returncode for process in started]
        killed += -signal.SIGKILL in codes
        if (out / "store.json").is_file() and not (out / ".work").is_dir():
            same_files(tmp_path / "whole", out)
            ended += 1
            out = tmp_path / f"killed{ended}"
    finish(command(folder, trained, out), processes)
    same_files(tmp_path / "whole", out)
    assert EmbeddingStore(out).verify() == []


@pytest.mark.slow
def test_two_processes_write_what_one_writes(folder: Path, trained: str, tmp_path: Path) -> None:
    finish(command(folder, trained, tmp_path / "one"), 1)
    told = finish(command(folder, trained, tmp_path / "two"), 2)
    assert told.count("clipkit search") == 1
    same_files(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(folder: Path, trained: str, tmp_path: Path, victim: int) -> None:
    """The main process does what the other leaves; without the main one, the other ends."""
    finish(command(folder, trained, tmp_path / "whole"), 1)
    out = tmp_path / "store"
    started = start_processes(command(folder, trained, out), 2)
    wait_until_at_work(out, started)
    time.sleep(0.3)
    started[victim].kill()
    other = started[1 - victim]
    told = other.communicate(timeout=300)[0].decode()
    started[victim].communicate()
    if victim == 1:
        assert other.returncode == 0, told[-3000:]
    else:
        assert other.returncode == 2
        assert "the main process has ended" in told
        assert "Traceback" not in told
        finish(command(folder, trained, out), 2)
    same_files(tmp_path / "whole", out)


@pytest.mark.slow
def test_accelerate_launch(folder: Path, trained: str, tmp_path: Path) -> None:
    """With one command on GPUs and, as here, on a CPU; run again, it is done at once."""
    out = tmp_path / "store"
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    words += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    words += command(folder, trained, out)[2:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for encoded in ("+ 0 reused", "= 0 encoded"):
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=600, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("clipkit search") == 1
        assert encoded in done.stdout
    assert EmbeddingStore(out).verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_so(
    folder: Path, trained: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "store"
    started = subprocess.Popen(
        command(folder, trained, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **told_to_process(0, 1, 1)},
    )
    wait_until_at_work(out, [started])
    started.send_signal(number)
    told = started.communicate(timeout=300)[0].decode()
    assert started.returncode == 128 + number
    assert f"stopped by {number.name}" in told
    assert "run the same again" in told
    finish(command(folder, trained, out), 1)
    assert EmbeddingStore(out).verify() == []


@pytest.mark.slow
def test_a_second_export_is_refused_and_a_killed_one_leaves_no_lock(
    folder: Path, trained: str, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    first = start_processes(command(folder, trained, out), 1)[0]
    wait_until_at_work(out, [first])
    first.send_signal(signal.SIGSTOP)
    second = start_processes(command(folder, trained, out), 1)[0]
    told = second.communicate(timeout=300)[0].decode()
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another clipkit writes into" in told
    finish(command(folder, trained, out), 1)
    assert np.isfinite(EmbeddingStore(out).embeddings()).all()
