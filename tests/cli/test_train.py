import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Run


def recipe(saved: Path, photos: Path, **changes: object) -> Path:
    settings = {
        "model": str(saved),
        "data": {"train": str(photos)},
        "batch_size": 6,
        "epochs": 2,
        "evaluate": {"mine": {"name": "retrieval", "data": str(photos)}},
        "out": str(photos.parent / "run"),
        **changes,
    }
    path = photos.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_with_its_table_and_what_comes_next(run: Run, saved: Path, photos: Path) -> None:
    result = run("train", recipe(saved, photos), "epochs=3")
    assert result.code == 0
    for words in ("Before and after", "text to image R@1", "run/model", "clipkit classify PHOTOS"):
        assert words in result.out
    assert "training steps: 9/9 loss" in result.err
    assert "pairs/s" in result.err
    again = run("train", recipe(saved, photos))
    assert again.code == 2
    assert "--restart" in again.err
    assert run("train", recipe(saved, photos), "--restart").code == 0


def test_a_corrupt_image_is_listed_and_the_rest_goes_on(
    run: Run, saved: Path, corrupt: Path
) -> None:
    result = run("train", recipe(saved, corrupt))
    assert result.code == 0
    assert "1 row could not be used" in result.out
    assert "red1.png" in (corrupt.parent / "run" / "rejects.jsonl").read_text()


def test_what_trains_is_told_before_it_does(run: Run, saved: Path, photos: Path) -> None:
    result = run("train", recipe(saved, photos, trainable={"name": "lora", "rank": 2}))
    assert result.code == 0
    lines = result.err.splitlines()
    assert re.fullmatch(r"image tower: [\d,]+ of 3\d\d,\d{3} parameters train", lines[0])
    assert re.fullmatch(r"text tower: [\d,]+ of \d\d,\d{3} parameters train", lines[1])
    assert lines[2] == "image projection: all of 1,552 parameters train"
    again = run("train", recipe(saved, photos), "--restart")
    assert re.fullmatch(
        r"image tower: none of \d{3},\d{3} parameters train", again.err.splitlines()[0]
    )


def test_mistakes_are_listed(run: Run, saved: Path, photos: Path) -> None:
    path = recipe(saved, photos, epoch=3, trainable="nothing", batch_size="many")
    result = run("train", path)
    assert result.code == 2
    assert "has 3 problems:" in result.err
    assert len(result.err.splitlines()) == 4
    missing = run("train", photos.parent / "gone.yaml")
    assert missing.code == 2
    assert "no recipe" in missing.err


def test_a_column_that_is_not_there(run: Run, saved: Path, photos: Path) -> None:
    (photos / "t.csv").write_text("image,caption\nred0.png,a\nblue0.png,b\n")
    data = {"train": str(photos / "t.csv"), "caption_column": "capton"}
    result = run("train", recipe(saved, photos, data=data))
    assert result.code == 2
    assert "no column 'capton' for caption" in result.err
    assert "did you mean 'caption'" in result.err


# As `python -m clipkit`, but a signal comes after a step: at a moment that is always the same.
STOPPED = """
import os, signal, sys
from clipkit.cli import main
from clipkit.train import watch

tell = watch.Watch.tell

def tell_and_kill(self, step, loss, scale):
    tell(self, step, loss, scale)
    if step == 2:
        os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))

watch.Watch.tell = tell_and_kill
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_with_a_sentence_and_the_same_command_goes_on(
    run: Run, saved: Path, photos: Path, number: signal.Signals, code: int
) -> None:
    path = recipe(saved, photos)
    words = [sys.executable, "-c", STOPPED, str(int(number)), "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"stopped by {number.name} at step 2 of 6 and saved in {photos.parent / 'run'}:"
        " the same command goes on from there"
    )
    assert "Traceback" not in done.stderr
    result = run("train", path)
    assert result.code == 0, result.err
    assert "Before and after" in result.out
    again = run("train", path)
    assert again.code == 0
    assert "this run was finished already" in again.out
    timings = (photos.parent / "run" / "timings.jsonl").read_text()
    assert timings.count('"began"') == 2


def test_rounds_of_pseudo_labels_have_a_table(
    run: Run, saved: Path, photos: Path, classes: Path
) -> None:
    changes = {
        "data": {"train": str(classes)},
        "evaluate": {"mine": {"name": "zero_shot", "data": str(classes)}},
        "pseudo_labels": {"data": str(photos), "metric": "mine.top1", "rounds": 1},
    }
    result = run("train", recipe(saved, photos, **changes))
    assert result.code == 0, result.err
    assert re.search(r"│ 0 +│ 0 +│ [01]\.\d{4} │", result.out)
    assert re.search(r"│ 1 +│ 18 +│ [01]\.\d{4} │", result.out)
    assert re.search(
        r"kept   round [01]: (all rounds are done|round 1 does not better)", result.out
    )
    told = r"note: labels-1: 18 of 18 rows got a label, (calibrated on|not calibrated)"
    assert re.search(told, result.err), result.err
