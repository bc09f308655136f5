"""The training loop, in the order things happen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import nn

from clipkit.allocator import keep_freed_memory
from clipkit.data.dataset import Dataset
from clipkit.data.sources import Sources
from clipkit.errors import ClipkitError
from clipkit.evaluate.encoder import check_rejects
from clipkit.models.dual_encoder import DualEncoder
from clipkit.signals import StopSignals
from clipkit.train.batches import BatchSettings, PairBatch
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.class_directions import ClassDirections
from clipkit.train.course import Course, Scorings
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.grad_cache import GradCache
from clipkit.train.kept import Selection
from clipkit.train.neighbours import NeighbourSettings
from clipkit.train.optim import OptimSettings, build_optimizer, set_learning_rate
from clipkit.train.prepare import prepare
from clipkit.train.processes import make_accelerator, tracking
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scores, Scoring
from clipkit.train.step import StepAim, StepObjective
from clipkit.train.teacher import TeacherSettings
from clipkit.train.tell import Teller
from clipkit.train.view_term import Views
from clipkit.train.watch import StepReport


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a run came to.

    Attributes:
        before: scores before the first step.
        after: scores of the model that was kept.
        kept_step: the step that model is from.
        steps: steps taken.
        loss: of the last step, in nats; `None` where no step was taken.
        captions_seen: captions that were looked at: all of them, or those drawn.
        captions_cut: how many of them have more tokens than the model reads.
        notes: what was wrong with the run, in words.
    """

    before: Scores
    after: Scores
    kept_step: int
    steps: int
    loss: float | None
    captions_seen: int
    captions_cut: int
    notes: tuple[str, ...]


def fit(
    model: DualEncoder,
    data: Dataset | Sources,
    *,
    loss: nn.Module | None,
    optim: OptimSettings,
    batches: BatchSettings,
    epochs: int,
    seed: int,
    scorings: Sequence[Scoring],
    cache: FeatureCache,
    run: RunFolder,
    selection: Selection | None = None,
    checkpoints: CheckpointSettings | None = None,
    max_rejected: float = 0.01,
    precision: str = "auto",
    class_directions: ClassDirections | None = None,
    teacher: TeacherSettings | None = None,
    views: Views | None = None,
    neighbours: NeighbourSettings | None = None,
    trackers: Sequence[str] = (),
    on_progress: Callable[[StepReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> FitResult:
    """Train `model` in place and leave the kept weights in it.

    A run that was stopped goes on at its last checkpoint; on a CPU it then ends with the same bits.

    Args:
        model: with what trains set by `set_trainable`.
        data: captioned images; any images where there are views alone; or several data sets.
        loss: of `clipkit.losses`, or a module that is called as they are; `None` where the captions
            teach nothing.
        optim: how the parameters move.
        batches: what a step is fed.
        epochs: visits of each row, see `Feed`.
        seed: of order, choice of caption, dropout, augmentation and the head of the views.
        scorings: what is scored before and after (and in between where it says so).
        cache: encodes frozen towers once.
        run: where events, checkpoints and times go.
        selection: which step's weights are kept; the last one's when `None`.
        checkpoints: when the run saves what it needs to go on.
        max_rejected: the largest share of rows that may be unusable.
        precision: "auto" (bf16 where the device computes in it, else float32), "bf16" or "float32".
        class_directions: a second term over the classes of the image tower's own classifier.
        teacher: a model to imitate.
        views: an image-image term.
        neighbours: how neighbours come into one batch; batches are by chance when `None`.
        trackers: where Accelerate reports to as well, such as "tensorboard".
        on_progress: told about the run about twice a second.
        on_note: told what is wrong with the run.

    Raises:
        RejectedError: when too many rows cannot be used.
        Interrupted: when a signal stopped the run, after saving.
        ConfigError: when a run that was stopped cannot go on with what has changed since.
        ClipkitError: when the loss or its gradient is no longer finite.
    """
    sources = data if isinstance(data, Sources) else Sources.of(data)
    data = sources.data
    identity = (data.fingerprint(), model.fingerprint())
    unused = not (frozen(model.image_tower) and frozen(model.text_tower)) or views is not None
    accelerator = make_accelerator(
        precision, find_unused_parameters=unused, trackers=trackers, folder=run.path
    )
    model.to(accelerator.device)
    if trackers:
        told = {"batch_size": batches.batch_size, "epochs": epochs, "seed": seed}
        accelerator.init_trackers("clipkit", config={**told, "lr": optim.lr})
    made = prepare(
        model,
        sources,
        loss=loss,
        batches=batches,
        cache=cache,
        seed=seed,
        max_rejected=max_rejected,
        class_directions=class_directions,
        teacher=teacher,
        views=views,
        neighbours=neighbours,
        accelerator=accelerator,
    )
    feed, objective, pairs = made.feed, made.objective, made.pairs
    optimizer = build_optimizer(model, optim, views=objective.views)
    wrapped, prepared = accelerator.prepare(pairs, optimizer)
    grads = GradCache(
        accelerator,
        pairs,
        wrapped,
        micro_batch_size=batches.micro_batch_size,
        views=objective.views,
    )
    with tracking(accelerator), StopSignals() as stop:
        course = Course(
            model,
            feed,
            optimizer,
            steps=epochs * len(feed),
            scorings=Scorings(scorings),
            selection=selection or Selection(),
            settings=checkpoints or CheckpointSettings(),
            cache=cache,
            run=run,
            stop=stop,
            identity=identity,
            views=objective.views,
            tracker=accelerator if trackers else None,
        )
        check_rejects(data, cache.rejected(data), max_rejected)
        tell = Teller(
            course, duplicates=batches.duplicates, on_progress=on_progress, on_note=on_note
        )
        take_steps(
            course,
            grads,
            objective,
            prepared,
            optim=optim,
            seed=seed,
            class_directions=class_directions,
            tell=tell,
        )
        accelerator.wait_for_everyone()
        after = course.finish()
    for reject in feed.skipped:
        cache.rejects[f"{data.name}/{reject.id}"] = reject
    check_rejects(data, cache.rejected(data), max_rejected)
    state = course.state
    return FitResult(
        state.before,
        after,
        kept_step=state.kept_step,
        steps=state.step,
        loss=state.loss,
        captions_seen=state.captions_seen,
        captions_cut=state.captions_cut,
        notes=tuple(state.notes.values()),
    )


def take_steps(
    course: Course,
    grads: GradCache,
    objective: StepObjective,
    optimizer: Any,
    *,
    optim: OptimSettings,
    seed: int,
    class_directions: ClassDirections | None,
    tell: Teller,
) -> None:
    """Take the steps that are left.

    Args:
        course: where the run is.
        grads: passes batches through the model.
        objective: what a step minimises.
        optimizer: as Accelerate wrapped it.
        optim: how the parameters move.
        seed: of chance.
        class_directions: a second term over the classes of the image tower's own classifier.
        tell: the terminal, the log and the trackers.

    Raises:
        Interrupted: when a signal stopped the run, after saving.
        ClipkitError: when the loss or its gradient is no longer finite.
    """
    model, state, accelerator = course.model, course.state, grads.accelerator
    if model.device.type == "cpu":
        keep_freed_memory()
    course.go_on()
    if course.ended:
        return
    for batch in tell.watch.waiting(course.feed.batches(state.step)):
        rate = set_learning_rate(optimizer, optim, state.step, course.steps)
        moment = (seed, state.step, accelerator.process_index)
        features = grads.encode(batch.pairs, batch.views, moment=moment)
        aim = objective(model, batch, features, signal=course.signal())
        optimizer.zero_grad()
        total = aim.loss + grads.backward(
            aim.pairs.gradients if aim.pairs is not None else None,
            aim.views.gradients if aim.views is not None else None,
            extra=_class_loss(class_directions, model, batch.pairs),
        )
        norm = accelerator.clip_grad_norm_(
            grads.pairs.parameters(), optim.clip_norm or float("inf")
        )
        # The host waits for the device.
        state.loss, first_loss = torch.stack([total, aim.first_loss]).tolist()
        _check_finite(course, aim, float(norm))
        optimizer.step()
        model.clamp_logit_scale()
        if objective.views is not None and aim.views is not None:
            objective.views.after_step(model, aim.views)
        state.step += 1
        state.lowest_loss = min(state.lowest_loss, first_loss)
        tell.step(aim, rate=rate, norm=float(norm), chance=objective.chance(aim))
        with tell.watch.paused():
            course.after_step(aim.signal)
        if course.ended:
            return


def _class_loss(
    directions: ClassDirections | None, model: DualEncoder, batch: PairBatch | None
) -> Callable[[], torch.Tensor] | None:
    """Return what works out the class-direction term, where there is one."""
    if directions is None or batch is None:
        return None
    return lambda: directions(model, batch.images.to(model.device))


def _check_finite(course: Course, aim: StepAim, norm: float) -> None:
    """Stop before this step's weights are changed, when it has no number to go by.

    Raises:
        ClipkitError: naming the rows whose features are no numbers.
    """
    state = course.state
    if state.loss is not None and isfinite(state.loss) and isfinite(norm):
        return
    what = "loss" if state.loss is None or not isfinite(state.loss) else "gradient"
    value = state.loss if what == "loss" else norm
    step, state.loss = state.step + 1, None
    rows = aim.spoilt_rows()
    ids = [course.feed.data[row].id for row in rows[:5]]
    course.run.log("failed", step=step, what=what, value=str(value), rows=ids)
    where = f"; rows whose features are no numbers: {', '.join(ids)}" if ids else ""
    if len(rows) == len(aim.rows()):
        where = "; all rows of the batch have features that are no numbers"
    elif len(rows) > len(ids):
        where += f" and {len(rows) - len(ids)} more"
    raise ClipkitError(
        f"the {what} is {value} at step {step}: lower optim.lr, lengthen optim.warmup_steps,"
        f" or train with precision=float32{where}"
    )
