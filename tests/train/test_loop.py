import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator

from clipkit.data import Dataset, load_data
from clipkit.errors import ClipkitError, Interrupted, RejectedError
from clipkit.evaluate import Retrieval, ZeroShot
from clipkit.losses import ClipLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.trainable import set_dropout, set_trainable
from clipkit.train.batches import BatchSettings, PairBatch, Part
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.kept import Selection
from clipkit.train.loop import FitResult, fit
from clipkit.train.optim import OptimSettings
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring
from clipkit.train.teacher import TeacherSettings
from clipkit.train.watch import StepReport

Make = Callable[..., DualEncoder]
QUICK = OptimSettings(lr=1e-2, warmup_steps=5)


def run_fit(
    model: DualEncoder,
    data: Dataset,
    folder: Path,
    *,
    what: str = "projections",
    restart: bool = True,
    **options: Any,
) -> FitResult:
    set_trainable(model, what)
    run = RunFolder(folder, restart=restart)
    names = {f.name for f in fields(BatchSettings)} & set(options)
    fed = {"batch_size": 6, **{name: options.pop(name) for name in names}}
    settings: dict[str, Any] = {
        "loss": ClipLoss(),
        "optim": QUICK,
        "batches": BatchSettings(**fed),
        "epochs": 3,
        "seed": 0,
        "scorings": [],
        "cache": FeatureCache(folder.parent / "cache"),
        "run": run,
        "max_rejected": 0.2,
        "precision": "float32",
        **options,
    }
    try:
        return fit(model, data, **settings)
    finally:
        run.close()


def weights(model: DualEncoder) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("what", ["projections", "all"])
def test_it_learns_colours(make_model: Make, photos: Path, tmp_path: Path, what: str) -> None:
    model, data = make_model(), load_data(photos)
    model.batch_norm = "train"  # its statistics are those of a tower that has seen nothing
    scorings = [Scoring("data", "mine", Retrieval(data=data, ks=(1,)))]
    result = run_fit(model, data, tmp_path / "run", what=what, epochs=20, scorings=scorings)
    assert result.steps == 60
    before, after = (
        scores["data"]["mine"]["mean_recall"] for scores in (result.before, result.after)
    )
    assert after > before + 0.3


def test_the_same_seed_gives_the_same_bits(make_model: Make, photos: Path, tmp_path: Path) -> None:
    data, states = load_data(photos), []
    for seed in (0, 0, 1):
        model = make_model(projection="mlp")
        set_dropout(model, hidden=0.2, image_features=0.3)
        run_fit(model, data, tmp_path / "run", seed=seed, flip=True)
        states.append(weights(model))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_frozen_towers_do_not_move(make_model: Make, photos: Path, tmp_path: Path) -> None:
    model = make_model()
    before = [weights(model.image_tower), weights(model.text_tower)]  # type: ignore[arg-type]
    run_fit(model, load_data(photos), tmp_path / "run")
    assert same(before[0], weights(model.image_tower))  # type: ignore[arg-type]
    assert same(before[1], weights(model.text_tower))  # type: ignore[arg-type]
    assert isinstance(model.image_projection, Projection)
    assert model.image_projection.standardised


def test_projections_that_were_trained_keep_their_statistics(
    make_model: Make, photos: Path, tmp_path: Path
) -> None:
    model, data = make_model(), load_data(photos)
    run_fit(model, data, tmp_path / "run", epochs=0)
    assert isinstance(model.image_projection, Projection)
    mean = model.image_projection.mean.clone()
    fewer = Dataset("fewer", data.samples[:8])
    run_fit(model, fewer, tmp_path / "run2", epochs=1)
    assert torch.equal(model.image_projection.mean, mean)


def test_one_step_equals_a_step_by_hand(make_model: Make, photos: Path, tmp_path: Path) -> None:
    """The gradient is that of the loss of the whole batch, by an optimiser written down here."""
    data = Dataset("d", load_data(photos).samples[:6])
    settings = OptimSettings(lr=1e-2, warmup_steps=0, schedule="constant", clip_norm=0)
    model = make_model()
    run_fit(model, data, tmp_path / "run", epochs=1, optim=settings)
    reference = make_model()
    cache = FeatureCache(tmp_path / "other")
    set_trainable(reference, "projections")
    images, _ = cache.image_tower(reference, data)
    captions = [sample.captions[0] for sample in data]
    texts = cache.text_tower(reference, captions)
    assert isinstance(reference.image_projection, Projection)
    assert isinstance(reference.text_projection, Projection)
    reference.image_projection.standardise(images)
    reference.text_projection.standardise(texts)
    same_caption = torch.tensor([[a == b for b in captions] for a in captions])
    a, b = reference.project_image(images), reference.project_text(texts)
    logits = reference.logit_scale * a @ b.T
    targets = same_caption / same_caption.sum(1, keepdim=True)
    loss = -(targets * logits.log_softmax(1)).sum(1).mean() / 2
    loss = loss - (targets * logits.T.log_softmax(1)).sum(1).mean() / 2
    loss.backward()
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:
            continue
        decay = 1 - 1e-2 * (0.1 if parameter.ndim > 1 else 0)
        moved = parameter * decay - 1e-2 * parameter.grad / (parameter.grad.abs() + 1e-6)
        found = dict(model.named_parameters())[name]
        torch.testing.assert_close(found, moved, rtol=1e-3, atol=2e-4, msg=name)


def test_the_best_step_is_kept(make_model: Make, photos: Path, tmp_path: Path) -> None:
    model, data = make_model(), load_data(photos)
    states: list[list[torch.Tensor]] = []

    class Script:
        """Scores that rise and fall again."""

        values = iter([0.1, 0.5, 0.9, 0.3, 0.2, 0.9])

        def __call__(self, model: DualEncoder, encoder: object = None) -> dict[str, float]:
            states.append(weights(model))
            return {"value": next(self.values)}

    result = run_fit(
        model,
        data,
        tmp_path / "run",
        epochs=4,
        scorings=[Scoring("data", "script", Script(), 3)],
        selection=Selection("script.value"),
    )
    assert result.kept_step == 6
    assert same(weights(model), states[2])


def test_events_and_progress(make_model: Make, photos: Path, tmp_path: Path) -> None:
    told: list[StepReport] = []
    scorings = [Scoring("general", "g", ZeroShot(data=_labelled(photos)))]
    run_fit(
        make_model(),
        load_data(photos),
        tmp_path / "run",
        scorings=scorings,
        on_progress=told.append,
    )
    assert told[-1].step == told[-1].steps == 9
    assert told[-1].rate > 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events[:2]] == ["start", "before"]
    assert events[-1]["event"] == "after"
    steps = [event for event in events if event["event"] == "step"]
    assert steps[-1]["step"] == 9
    assert {"loss", "lr", "logit_scale"} <= set(steps[-1])


def _labelled(photos: Path) -> Dataset:
    samples = [replace(s, label=s.id[:-5]) for s in load_data(photos)]
    return Dataset("labelled", samples)


def test_a_loss_that_is_no_number_stops(make_model: Make, photos: Path, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, image_features: torch.Tensor, *rest: object) -> torch.Tensor:
            return image_features.sum() * float("nan")

    with pytest.raises(ClipkitError, match="the loss is nan at step 1"):
        run_fit(make_model(), load_data(photos), tmp_path / "run", loss=Broken())


@pytest.mark.parametrize("what", ["projections", "all"])
@pytest.mark.parametrize("micro", [None, 2])
def test_a_picture_without_numbers_is_named_and_nothing_is_changed(
    make_model: Make,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    micro: int | None,
) -> None:
    """The weights are those of the steps before: what trained up to there is not lost."""
    model, data = make_model(), load_data(photos)
    given = PairBatch.parts
    spoilt = data.samples[7].id
    states: list[list[torch.Tensor]] = []

    def parts(self: PairBatch, model: DualEncoder, size: int | None) -> list[Part]:
        found = given(self, model, size)
        states.append(weights(model))
        if 7 in self.rows.tolist() and len(states) > 3:  # in the second epoch
            at = self.rows.tolist().index(7)
            number = next(n for n in range(len(found)) if at < sum(map(_pairs, found[: n + 1])))
            images = found[number].on_device(model)[0].clone()
            images[at - sum(map(_pairs, found[:number]))] = float("nan")
            found[number] = replace(found[number], images=images)
        return found

    monkeypatch.setattr(PairBatch, "parts", parts)
    with pytest.raises(ClipkitError, match=rf"at step \d: .*no numbers: {spoilt}$"):
        run_fit(model, data, tmp_path / "run", what=what, micro_batch_size=micro)
    assert same(weights(model), states[-1])
    failed = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert (failed["event"], failed["rows"]) == ("failed", [spoilt])


def _pairs(part: Part) -> int:
    return len(part.images)


class Falling:
    """Scores that are best at the second time."""

    def __init__(self) -> None:
        self.scored = 0

    def __call__(self, model: DualEncoder, encoder: object = None) -> dict[str, float]:
        self.scored += 1
        return {"value": 1 - model.logit_scale.item() / 1000 if self.scored != 2 else 1.0}


def test_patience_ends_a_run_and_one_that_goes_on(
    make_model: Make, photos: Path, tmp_path: Path
) -> None:
    data = load_data(photos)
    options: dict[str, Any] = {"epochs": 10, "selection": Selection("s.value", patience=3)}
    model, script = make_model(), Falling()
    whole = run_fit(
        model, data, tmp_path / "whole", scorings=[Scoring("data", "s", script, 2)], **options
    )
    assert (whole.steps, whole.kept_step) == (8, 2)

    def kill(report: StepReport) -> None:
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped, script = make_model(), Falling()
    with pytest.raises(Interrupted):
        run_fit(
            stopped,
            data,
            tmp_path / "run",
            scorings=[Scoring("data", "s", script, 2)],
            on_progress=kill,
            **options,
        )
    again = make_model()
    result = run_fit(
        again,
        data,
        tmp_path / "run",
        restart=False,
        scorings=[Scoring("data", "s", script, 2)],
        **options,
    )
    assert (result.steps, result.kept_step) == (8, 2)
    assert same(weights(again), weights(model))
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "run")]
    assert logs[0] == logs[1]


def test_a_teacher_is_imitated(make_model: Make, photos: Path, tmp_path: Path) -> None:
    """A student that hears little else comes to see the pairs as its teacher does.

    How high the teacher's part of the loss stays says nothing about the pairs.
    """
    make_model(seed=3).save(str(tmp_path / "teacher"))
    data = load_data(photos)
    settings = TeacherSettings(str(tmp_path / "teacher"), weight=100.0, logit_scale=20.0)
    losses = []
    for epochs in (1, 35):
        run_fit(make_model(), data, tmp_path / "run", epochs=epochs, teacher=settings)
        lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines if '"step"' in line]
        losses.append([event["loss"] for event in steps if event["event"] == "step"][-1])
    assert losses[1] < 0.99 * losses[0]
    assert losses[1] > 10  # and still the loss of the pairs is seen to have left ln(6)
    assert not [line for line in lines if "ln(batch)" in line]


def test_trackers_are_told_and_write_it_down(
    make_model: Make, photos: Path, tmp_path: Path
) -> None:
    """Also when the run ends otherwise than well."""
    told: dict[int, dict[str, float]] = {}

    def kill(report: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for on_progress in (None, kill):
        out = tmp_path / ("killed" if on_progress else "run")
        options: dict[str, Any] = {"trackers": ("tensorboard",), "on_progress": on_progress}
        if on_progress:
            with pytest.raises(Interrupted):
                run_fit(make_model(), load_data(photos), out, epochs=1, **options)
        else:
            run_fit(make_model(), load_data(photos), out, epochs=4, **options)
        events = event_accumulator.EventAccumulator(str(out / "clipkit"))
        events.Reload()
        for name in ("loss", "lr", "logit_scale", "gradient_norm"):
            for event in events.Scalars(name):
                told.setdefault(event.step, {})[name] = event.value
        lines = (out / "log.jsonl").read_text().splitlines()
        logged = [json.loads(line) for line in lines if '"event": "step"' in line]
        assert sorted(told) == [event["step"] for event in logged]
        for event in logged:
            for name, value in told[event["step"]].items():
                assert value == pytest.approx(event[name], rel=1e-5)
        told.clear()


def test_rejects_end_a_run_past_the_limit(make_model: Make, corrupt: Path, tmp_path: Path) -> None:
    data = load_data(corrupt)
    run_fit(make_model(), data, tmp_path / "run", max_rejected=0.01)
    (corrupt / "red2.png").write_bytes(b"")
    with pytest.raises(RejectedError, match="2 rows rejected"):
        run_fit(make_model(), load_data(corrupt), tmp_path / "run", max_rejected=0.01)
