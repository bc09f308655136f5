"""The training loop, in the order things happen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import nn

from clipkit.data.dataset import Dataset
from clipkit.errors import ClipkitError
from clipkit.evaluate.encoder import check_rejects
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.signals import StopSignals
from clipkit.train.batches import BatchSettings, PairBatch, PairBatches
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.class_directions import ClassDirections
from clipkit.train.course import Course, Scorings
from clipkit.train.diagnose import Sight, diagnose, diagnose_waiting, mean_cosine
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.grad_cache import GradCache, Pairs
from clipkit.train.kept import Selection
from clipkit.train.objective import Aim, Objective
from clipkit.train.optim import OptimSettings, build_optimizer, set_learning_rate
from clipkit.train.processes import make_accelerator, tracking
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scores, Scoring
from clipkit.train.teacher import Teacher, TeacherSettings
from clipkit.train.watch import StepReport, Watch


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
    data: Dataset,
    *,
    loss: nn.Module,
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
    trackers: Sequence[str] = (),
    on_progress: Callable[[StepReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> FitResult:
    """Train `model` in place and leave the kept weights in it.

    A run that was stopped goes on at its last checkpoint; on a CPU it then ends with the same bits.

    Args:
        model: with what trains set by `set_trainable`.
        data: captioned images.
        loss: of `clipkit.losses`, or a module that is called as they are.
        optim: how the parameters move.
        batches: what a step is fed.
        epochs: visits of each row.
        seed: of order, choice of caption, dropout and augmentation.
        scorings: what is scored before and after (and in between where it says so).
        cache: encodes frozen towers once.
        run: where events, checkpoints and times go.
        selection: which step's weights are kept; the last one's when `None`.
        checkpoints: when the run saves what it needs to go on.
        max_rejected: the largest share of rows that may be unusable.
        precision: "auto" (bf16 where the device computes in it, else float32), "bf16" or "float32".
        class_directions: a second term over the classes of the image tower's own classifier.
        teacher: a model to imitate.
        trackers: where Accelerate reports to as well, such as "tensorboard".
        on_progress: told about the run about twice a second.
        on_note: told what is wrong with the run.

    Raises:
        RejectedError: when too many rows cannot be used.
        Interrupted: when a signal stopped the run, after saving.
        ConfigError: when a run that was stopped cannot go on with what has changed since.
        ClipkitError: when the loss or its gradient is no longer finite.
    """
    identity = (data.fingerprint(), model.fingerprint())
    unused = not (frozen(model.image_tower) and frozen(model.text_tower))
    accelerator = make_accelerator(
        precision, find_unused_parameters=unused, trackers=trackers, folder=run.path
    )
    model.to(accelerator.device)
    if trackers:
        told = {"batch_size": batches.batch_size, "epochs": epochs, "seed": seed}
        accelerator.init_trackers("clipkit", config={**told, "lr": optim.lr})
    fed = PairBatches(
        model,
        data,
        cache,
        batches,
        seed=seed,
        process_index=accelerator.process_index,
        process_count=accelerator.num_processes,
        number_captions=teacher is not None,
    )
    standardise_projections(model, fed)
    if class_directions is not None:
        class_directions.prepare(model, fed.image_features, cache)
    taught = None
    if teacher is not None and fed.captions is not None:
        texts = fed.captions.texts
        taught = Teacher(
            teacher, data, texts, cache, device=model.device, max_rejected=max_rejected
        )
    pairs = Pairs(model, cached_images=fed.image_features is not None)
    model.train()
    optimizer = build_optimizer(model, optim)
    wrapped, prepared = accelerator.prepare(pairs, optimizer)
    grads = GradCache(accelerator, pairs, wrapped, micro_batch_size=batches.micro_batch_size)
    objective = Objective(loss, duplicates=batches.duplicates, teacher=taught)
    with tracking(accelerator), StopSignals() as stop:
        course = Course(
            model,
            fed,
            optimizer,
            steps=epochs * len(fed),
            scorings=Scorings(scorings),
            selection=selection or Selection(),
            settings=checkpoints or CheckpointSettings(),
            cache=cache,
            run=run,
            stop=stop,
            identity=identity,
            tracker=accelerator if trackers else None,
        )
        check_rejects(data, cache.rejected(data), max_rejected)
        tell = _Teller(course, on_progress, on_note)
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
    for reject in fed.skipped:
        cache.rejects[f"{data.name}/{reject.id}"] = reject
    check_rejects(data, cache.rejected(data), max_rejected)
    state = course.state
    return FitResult(
        state.before,
        after,
        kept_step=state.kept_step,
        steps=state.step,
        loss=state.loss,
        captions_seen=fed.shorten.seen,
        captions_cut=fed.shorten.cut,
        notes=tuple(state.notes.values()),
    )


def standardise_projections(model: DualEncoder, batches: PairBatches) -> None:
    """Show new projections the features of the training data, where those are at hand."""
    sides = (
        (model.image_projection, batches.image_features),
        (model.text_projection, batches.text_features),
    )
    for projection, features in sides:
        if isinstance(projection, Projection) and features is not None:
            projection.standardise(features.to(model.device))


def take_steps(
    course: Course,
    grads: GradCache,
    objective: Objective,
    optimizer: Any,
    *,
    optim: OptimSettings,
    seed: int,
    class_directions: ClassDirections | None,
    tell: "_Teller",
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
    course.go_on()
    while not course.ended:
        epoch, done = divmod(state.step, len(course.batches))
        for batch in tell.watch.waiting(course.batches.epoch(epoch, done)):
            rate = set_learning_rate(optimizer, optim, state.step, course.steps)
            moment = (seed, state.step, accelerator.process_index)
            features = grads.encode(batch, moment=moment)
            aim = objective(model, batch, *features, signal=course.signal())
            extra = (
                partial(_class_loss, class_directions, model, batch) if class_directions else None
            )
            optimizer.zero_grad()
            total = aim.loss + grads.backward(aim.gradients, extra=extra)
            norm = accelerator.clip_grad_norm_(
                grads.pairs.parameters(), optim.clip_norm or float("inf")
            )
            # The host waits for the device.
            state.loss, pair_loss = torch.stack([total, aim.pair_loss]).tolist()
            _check_finite(course, aim, float(norm))
            optimizer.step()
            model.clamp_logit_scale()
            state.step += 1
            state.lowest_loss = min(state.lowest_loss, pair_loss)
            tell.step(aim, rate, float(norm))
            with tell.watch.paused():
                course.after_step(aim.gathered.signal)
            if course.ended:
                break


def _class_loss(directions: ClassDirections, model: DualEncoder, batch: PairBatch) -> torch.Tensor:
    return directions(model, batch.images.to(model.device))


def _check_finite(course: Course, aim: Aim, norm: float) -> None:
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
    ids = [course.batches.data[row].id for row in rows[:5]]
    course.run.log("failed", step=step, what=what, value=str(value), rows=ids)
    where = f"; rows whose features are no numbers: {', '.join(ids)}" if ids else ""
    if len(rows) == len(aim.rows):
        where = "; all rows of the batch have features that are no numbers"
    elif len(rows) > len(ids):
        where += f" and {len(rows) - len(ids)} more"
    raise ClipkitError(
        f"the {what} is {value} at step {step}: lower optim.lr, lengthen optim.warmup_steps,"
        f" or train with precision=float32{where}"
    )


class _Teller:
    """Tells the terminal, the log and the trackers how a run goes."""

    def __init__(
        self,
        course: Course,
        on_progress: Callable[[StepReport], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self.course, self.on_note = course, on_note
        self.watch = Watch(
            course.state.step, course.steps, course.batches.batch_size, course.run, on_progress
        )
        self._waits = False

    def step(self, aim: Aim, rate: float, norm: float) -> None:
        """Tell about a step, as far as it is time to."""
        state, run = self.course.state, self.course.run
        loss = state.loss or 0.0
        scale = self.course.model.logit_scale.item()
        self.watch.tell(state.step, loss, scale)
        if not self.watch.logs(state.step):
            return
        values = {"loss": loss, "lr": rate, "logit_scale": scale, "gradient_norm": norm}
        run.log("step", step=state.step, **values)
        self.course.track(values)
        images, texts = (some.detach() for some in aim.gathered.features[:2])
        softmax = self.course.model.similarity == "softmax"
        seen = Sight(
            step=state.step,
            lowest_loss=state.lowest_loss,
            batch_size=len(aim.rows),
            softmax=softmax,
            logit_scale=scale,
            first_logit_scale=self.course.first_logit_scale,
            image_cosine=mean_cosine(images),
            text_cosine=mean_cosine(texts),
            duplicates=aim.positives.share(),
        )
        for name, sentence in diagnose(seen, duplicates=aim.positives.duplicates):
            if name not in state.notes:
                state.notes[name] = sentence
                run.log("note", step=state.step, note=sentence)
                self._note(sentence)
        watch = self.watch
        pairs = (state.step - watch.start) * watch.batch_size
        waits = diagnose_waiting(waited=watch.waited, seconds=watch.seconds(), pairs=pairs)
        if waits and not self._waits:
            self._waits = True
            run.time("note", step=state.step, note=waits)
            self._note(waits)

    def _note(self, sentence: str) -> None:
        if self.on_note is not None and self.course.run.writes:
            self.on_note(sentence)
