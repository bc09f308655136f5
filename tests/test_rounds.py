"""Rounds of pseudo-labels: what each trains on, when they end, and that a kill changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import clipkit
from clipkit.data import load_data
from clipkit.errors import ConfigError, DataError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.watch import StepReport
from tests.conftest import COLOURS, square

Make = Callable[..., DualEncoder]


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """A folder of other pictures of the colours."""
    for colour in COLOURS:
        (tmp_path / "held_out" / colour).mkdir(parents=True)
        for number in range(3):
            square(colour, 50 + number).save(tmp_path / "held_out" / colour / f"{number}.png")
    return tmp_path / "held_out"


@pytest.fixture
def settings(
    make_model: Make, classes: Path, photos: Path, held_out: Path, tmp_path: Path
) -> dict[str, Any]:
    make_model(projection="mlp").save(str(tmp_path / "base"))
    return {
        "model": str(tmp_path / "base"),
        "data": {"train": str(classes)},
        "batch_size": 6,
        "epochs": 3,
        "dropout": 0.2,
        "precision": "float32",
        "optim": {"lr": 0.002, "warmup_steps": 1},
        "evaluate": {"held_out": {"name": "zero_shot", "data": str(held_out)}},
        "pseudo_labels": {"data": str(photos), "metric": "held_out.top1", "top_per_class": 3},
        "checkpoints": {"every_steps": 2},
        "out": str(tmp_path / "run"),
    }


def write(settings: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def content(run: Path) -> dict[str, bytes]:
    """Return the bytes of what must not differ."""
    names = ("log.jsonl", "metrics.json", "rejects.jsonl", "model/model.safetensors")
    labels = [path for path in run.rglob("labels-*/*") if path.is_file()]
    paths = [run / name for name in names] + labels
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_each_round_is_the_run_that_one_would_make_by_hand(
    settings: dict[str, Any], classes: Path, photos: Path, tmp_path: Path
) -> None:
    for at, colour in enumerate(COLOURS):  # errors, so that nothing is certain
        square(list(COLOURS)[at - 1], 77).save(classes / colour / "wrong.png")
    result = clipkit.train(write(settings, tmp_path / "mine.yaml"))
    rounds = result.metrics["rounds"]
    assert [one["round"] for one in rounds] == list(range(len(rounds)))
    values = [one["metric"] for one in rounds]
    alone = {key: value for key, value in settings.items() if key != "pseudo_labels"}
    first = clipkit.train(write(alone, tmp_path / "alone.yaml"), [f"out={tmp_path / 'zero'}"])
    assert first.metrics["after"] == rounds[0]["scores"]

    start = first.metrics["before"]["data"]["held_out"]["top1"]
    labeller = tmp_path / ("zero/model" if values[0] >= start else "base")
    by_hand = clipkit.label(
        photos, tmp_path / "labels", model=str(labeller), fit=classes, top_per_class=3
    )
    made = load_data(tmp_path / "run" / "labels-1" / "manifest.yaml")
    expected = load_data(by_hand.manifest)
    assert [(s.id, s.label) for s in made] == [(s.id, s.label) for s in expected]
    confidence = [sample.metadata["confidence"] for sample in made]
    assert min(confidence) < 0.9  # else weights would say nothing
    assert confidence == pytest.approx([s.metadata["confidence"] for s in expected], abs=1e-3)
    assert rounds[1]["counts"]["labels"] == by_hand.labels

    source = {
        "train": str(tmp_path / "run" / "labels-1" / "manifest.yaml"),
        "weight_column": "confidence",
        "label_templates": ["a photo of a {}."],
    }
    both = {**alone, "also": {"pseudo_labels": source}}
    second = clipkit.train(write(both, tmp_path / "both.yaml"), [f"out={tmp_path / 'one'}"])
    assert second.metrics["after"] == rounds[1]["scores"]
    weights = load_file(tmp_path / "run" / "round-1" / "model" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "model" / "model.safetensors").items():
        assert tensor.equal(weights[name])


@pytest.mark.parametrize("rate", [0.0005, 0.002, 0.05])
def test_it_ends_where_the_metric_gets_no_better_and_keeps_the_best(
    settings: dict[str, Any], tmp_path: Path, rate: float
) -> None:
    settings["optim"]["lr"] = rate
    result = clipkit.train(write(settings, tmp_path / "mine.yaml"))
    values = [one["metric"] for one in result.metrics["rounds"]]
    kept = result.metrics["kept_round"]
    assert kept == values.index(max(values))
    for number, value in enumerate(values[1:-1], 1):
        assert value > max(values[:number])
    if values[-1] > max(values[:-1]):
        assert (len(values), result.metrics["stopped"]) == (4, "all rounds are done")
    else:
        assert f"round {len(values) - 1} does not better" in result.metrics["stopped"]
    best = tmp_path / "run" / f"round-{kept}"
    assert load(best / "model").fingerprint() == result.model.fingerprint()
    assert load(tmp_path / "run" / "model").fingerprint() == result.model.fingerprint()
    own = json.loads((best / "metrics.json").read_text())
    assert {key: result.metrics[key] for key in own} == own


class Killed(BaseException):
    """Stands for a kill: nothing that clipkit catches."""


@pytest.mark.parametrize("moment", ["step of round 0", "labelling", "step of round 1", "end"])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
    settings: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    path = write(settings, tmp_path / "mine.yaml")
    clipkit.train(path)
    expected = content(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "whole")
    firsts = 0

    def on_step(report: StepReport) -> None:
        nonlocal firsts
        firsts += report.step == 1
        if report.step == 1 and moment == f"step of round {firsts - 1}":
            raise Killed

    def on_note(note: str) -> None:
        if note.startswith({"labelling": "labels-1", "end": "round 1"}.get(moment, "no note")):
            raise Killed

    with pytest.raises(Killed):
        clipkit.train(path, on_progress=on_step, on_note=on_note)
    done = sorted((tmp_path / "run").glob("round-*/metrics.json"))
    assert len(done) == {"step of round 0": 0, "end": 2}.get(moment, 1)
    before = [file.stat().st_mtime_ns for file in done]
    clipkit.train(path)
    assert content(tmp_path / "run") == expected
    assert [file.stat().st_mtime_ns for file in done] == before


def test_a_finished_run_is_returned_and_other_data_refused(
    settings: dict[str, Any], photos: Path, classes: Path, tmp_path: Path
) -> None:
    path = write(settings, tmp_path / "mine.yaml")
    first = clipkit.train(path)
    again = clipkit.train(path)
    assert (again.was_finished, again.metrics) == (True, first.metrics)
    with pytest.raises(ConfigError, match=r"another recipe.*\n.*pseudo_labels.top_per_class: 3"):
        clipkit.train(path, ["pseudo_labels.top_per_class=2"])
    square("red", 99).save(photos / "red9.png")
    with pytest.raises(ConfigError, match=r"begun with other data.*\n.*pseudo_labels.data: sha256"):
        clipkit.train(path)
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"begun with other data.*\n.*pseudo_labels.data: sha256"):
        clipkit.train(path)
    assert not clipkit.train(path, restart=True).was_finished


def test_what_is_said_and_written(
    settings: dict[str, Any], held_out: Path, photos: Path, tmp_path: Path
) -> None:
    settings["pseudo_labels"]["calibrate"] = str(held_out)
    settings["max_rejected"] = 0.1
    (photos / "red1.png").write_bytes(b"broken")
    notes: list[str] = []
    result = clipkit.train(write(settings, tmp_path / "mine.yaml"), on_note=notes.append)
    told = result.metrics["rounds"][1]
    assert told["confidence"].startswith("calibrated on 18 images of held_out")
    assert told["counts"]["left_out"]["cannot identify image file"] == 1
    rows = sum(told["counts"]["labels"].values()) + sum(told["counts"]["left_out"].values())
    assert rows == 18
    assert any(note.startswith("labels-1: ") for note in notes)
    assert any(note.startswith("round 0: held_out.top1 ") for note in notes)
    events = [
        json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert [event["event"] for event in events] == ["round"] * (len(events) - 1) + ["kept"]


def test_the_model_was_trained_on_what_it_is_calibrated_on(
    settings: dict[str, Any], classes: Path, tmp_path: Path
) -> None:
    """That is said, where it is so."""
    for at, colour in enumerate(COLOURS):  # errors, so that there is something to calibrate by
        square(list(COLOURS)[at - 1], 77).save(classes / colour / "wrong.png")
    result = clipkit.train(write(settings, tmp_path / "mine.yaml"))
    rounds = result.metrics["rounds"]
    before = result.metrics["before"]["data"]["held_out"]["top1"]
    trained = rounds[0]["metric"] >= before
    assert ("the model was trained on them" in rounds[1]["confidence"]) == trained


def test_towers_that_train_and_a_recipe_without_labels(
    settings: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    settings |= {"trainable": "all", "epochs": 1}
    settings["pseudo_labels"]["rounds"] = 1
    result = clipkit.train(write(settings, tmp_path / "mine.yaml"))
    assert len(result.metrics["rounds"]) == 2
    settings["data"] = {"train": str(photos)}
    with pytest.raises(DataError, match="has no labels, which pseudo-labels are learned from"):
        clipkit.train(write(settings, tmp_path / "other.yaml"), [f"out={tmp_path / 'other'}"])
