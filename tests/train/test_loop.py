import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.errors import ClipkitError, RejectedError
from clipkit.evaluate import Retrieval, ZeroShot
from clipkit.losses import ClipLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.trainable import set_dropout, set_trainable
from clipkit.train.batches import BatchSettings
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.kept import Selection
from clipkit.train.loop import FitResult, fit
from clipkit.train.optim import OptimSettings
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring
from clipkit.train.watch import StepReport

Make = Callable[..., DualEncoder]
QUICK = OptimSettings(lr=1e-2, warmup_steps=5)


def run_fit(
    model: DualEncoder, data: Dataset, folder: Path, *, what: str = "projections", **options: Any
) -> FitResult:
    set_trainable(model, what)
    run = RunFolder(folder, restart=True)
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
    from dataclasses import replace

    samples = [replace(s, label=s.id[:-5]) for s in load_data(photos)]
    return Dataset("labelled", samples)


def test_a_loss_that_is_no_number_stops(make_model: Make, photos: Path, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, image_features: torch.Tensor, *rest: object) -> torch.Tensor:
            return image_features.sum() * float("nan")

    with pytest.raises(ClipkitError, match="the loss is nan at step 1"):
        run_fit(make_model(), load_data(photos), tmp_path / "run", loss=Broken())


def test_rejects_end_a_run_past_the_limit(make_model: Make, corrupt: Path, tmp_path: Path) -> None:
    data = load_data(corrupt)
    run_fit(make_model(), data, tmp_path / "run", max_rejected=0.01)
    (corrupt / "red2.png").write_bytes(b"")
    with pytest.raises(RejectedError, match="2 rows rejected"):
        run_fit(make_model(), load_data(corrupt), tmp_path / "run", max_rejected=0.01)
