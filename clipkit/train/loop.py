"""The training loop, in the order things happen."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.data.dataset import Dataset
from clipkit.errors import ClipkitError
from clipkit.evaluate.encoder import check_rejects
from clipkit.losses import positives_by_content
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.sentences import LongCaptions
from clipkit.train.batches import PairBatches
from clipkit.train.class_directions import ClassDirections
from clipkit.train.feature_cache import FeatureCache, frozen
from clipkit.train.gather import gather_batch
from clipkit.train.optim import OptimSettings, build_optimizer, learning_rate
from clipkit.train.processes import make_accelerator
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scores, Scoring, pick, score

LOG_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class StepReport:
    """What the terminal shows while training.

    Attributes:
        step: steps done.
        steps: steps of the whole run.
        loss: of the last step, in nats.
        logit_scale: the multiplier after that step.
        rate: pairs a second.
        seconds_left: at that rate.
    """

    step: int
    steps: int
    loss: float
    logit_scale: float
    rate: float
    seconds_left: float


class Pairs(nn.Module):
    """One forward pass over both sides, so that Accelerate wraps the model as a whole."""

    def __init__(self, model: DualEncoder, *, cached_images: bool) -> None:
        """Keep the model, and whether images come as features of its frozen tower."""
        super().__init__()
        self.model = model
        self.cached_images = cached_images

    def forward(
        self, images: Tensor, texts: Tensor | dict[str, Tensor]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, ""]]:
        """Return image features, text features and the logit scale."""
        model = self.model
        encode = model.project_image if self.cached_images else model.encode_image
        text_features = (
            model.project_text(texts) if isinstance(texts, Tensor) else model.encode_text(texts)
        )
        return encode(images), text_features, model.logit_scale


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a run came to.

    Attributes:
        before: scores before the first step.
        after: scores of the model that was kept.
        kept_step: the step that model is from.
        steps: steps taken.
        seconds: time in the loop, evaluation and encoding apart.
        loss: of the last step, in nats.
        captions_seen: captions that were looked at: all of them, or those drawn.
        captions_cut: how many of them have more tokens than the model reads.
    """

    before: Scores
    after: Scores
    kept_step: int
    steps: int
    seconds: float
    loss: float
    captions_seen: int
    captions_cut: int


def fit(
    model: DualEncoder,
    data: Dataset,
    *,
    loss: nn.Module,
    optim: OptimSettings,
    batch_size: int,
    epochs: int,
    seed: int,
    scorings: Sequence[Scoring],
    cache: FeatureCache,
    run: RunFolder,
    max_rejected: float = 0.01,
    best: str | None = None,
    augment: bool = False,
    flip: bool = False,
    drop_last: bool = False,
    workers: int | None = None,
    long_captions: LongCaptions = "head",
    precision: str = "auto",
    class_directions: ClassDirections | None = None,
    on_progress: Callable[[StepReport], None] | None = None,
) -> FitResult:
    """Train `model` in place and leave the kept weights in it.

    Args:
        model: with what trains set by `set_trainable`.
        data: captioned images.
        loss: called with image features, text features, logit scale and positives.
        optim: how the parameters move.
        batch_size: pairs a step, over all processes.
        epochs: visits of each row.
        seed: of order, choice of caption, dropout and augmentation.
        scorings: what is scored before and after (and in between where it says so).
        cache: encodes frozen towers once.
        run: where events go.
        max_rejected: the largest share of rows that may be unusable.
        best: `prefix.metric` by which the model is chosen among the steps that were scored; the
            last step's model when `None`.
        augment: random crops of the training images.
        flip: mirror half of the training images.
        drop_last: leave out the pairs that do not fill an epoch's last batch.
        workers: threads that decode images, of each process; the cores, at most 8, when `None`.
        long_captions: what stands for a caption with more tokens than the model reads.
        precision: "auto" (bf16 on a GPU, else float32), "bf16" or "float32".
        class_directions: a second term over the classes of the image tower's own classifier.
        on_progress: told about the run about twice a second.

    Raises:
        RejectedError: when too many rows cannot be used.
        ClipkitError: when the loss is no longer finite.
    """
    unused = not (frozen(model.image_tower) and frozen(model.text_tower))
    accelerator = make_accelerator(precision, find_unused_parameters=unused)
    model.to(accelerator.device)
    batches = PairBatches(
        model,
        data,
        cache,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        flip=flip,
        drop_last=drop_last,
        workers=workers,
        long_captions=long_captions,
        process_index=accelerator.process_index,
        process_count=accelerator.num_processes,
    )
    standardise_projections(model, batches)
    if class_directions is not None:
        class_directions.prepare(model, batches.image_features, cache)
    before = score(model, scorings, cache)
    run.log("before", scores=before)
    check_rejects(data, cache.rejected(data), max_rejected)

    torch.manual_seed(seed)
    pairs = Pairs(model, cached_images=batches.image_features is not None)
    model.train()
    optimizer = build_optimizer(model, optim)
    wrapped, optimizer = accelerator.prepare(pairs, optimizer)
    kept = _Kept(model, best, before)
    periodic = [scoring for scoring in scorings if scoring.every_steps]
    steps = epochs * len(batches)
    watch = _Watch(steps, batches.batch_size, run, on_progress)
    step, total = 0, torch.tensor(float("nan"))
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            rate = learning_rate(optim, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with accelerator.autocast():
                image_features, text_features, scale = wrapped(batch.images, batch.texts)
                gathered = gather_batch(image_features, text_features, batch)
                positives = positives_by_content(gathered.image_keys, gathered.text_keys)
                total = loss(
                    gathered.image_features, gathered.text_features, scale, None, positives
                )
                if class_directions is not None:
                    total = total + class_directions(model, batch.images)
            optimizer.zero_grad()
            accelerator.backward(total)
            if optim.clip_norm:
                accelerator.clip_grad_norm_(pairs.parameters(), optim.clip_norm)
            optimizer.step()
            model.clamp_logit_scale()
            step += 1
            if watch.due(step):
                watch.tell(step, total, rate, model)
            due = [scoring for scoring in periodic if step % scoring.every_steps == 0]
            if due and step < steps:
                with watch.paused():
                    scores = score(model, due, cache)
                    run.log("scores", step=step, scores=scores)
                    kept.offer(model, step, scores)
    seconds = watch.seconds()
    accelerator.wait_for_everyone()
    model.eval()
    kept.offer(model, step, score(model, periodic or scorings, cache) if best else None)
    kept.restore(model)
    after = score(model, scorings, cache)
    run.log("after", step=kept.step, scores=after)
    for reject in batches.skipped:
        cache.rejects[f"{data.name}/{reject.id}"] = reject
    check_rejects(data, cache.rejected(data), max_rejected)
    return FitResult(
        before,
        after,
        kept_step=kept.step,
        steps=steps,
        seconds=seconds,
        loss=total.item(),
        captions_seen=batches.shorten.seen,
        captions_cut=batches.shorten.cut,
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


class _Kept:
    """The weights that will be saved: the last ones, or the best by a metric."""

    def __init__(self, model: DualEncoder, best: str | None, before: Scores) -> None:
        self.best = best
        self.step = 0
        self.value = pick(before, best) if best else float("-inf")
        self.state: dict[str, Tensor] | None = self._copy(model) if best else None

    def offer(self, model: DualEncoder, step: int, scores: Scores | None) -> None:
        """Take these weights where they are better, or where only the last ones count."""
        if self.best is None or scores is None:
            self.step = step
            return
        value = pick(scores, self.best)
        if value > self.value:
            self.step, self.value, self.state = step, value, self._copy(model)

    def restore(self, model: DualEncoder) -> None:
        """Put the kept weights back into the model."""
        if self.state is not None:
            model.load_state_dict(self.state, strict=False)

    @staticmethod
    def _copy(model: DualEncoder) -> dict[str, Tensor]:
        """Copy what changes in training: all but frozen parameters."""
        still = {name for name, value in model.named_parameters() if not value.requires_grad}
        state = model.state_dict()
        return {k: v.detach().clone() for k, v in state.items() if k not in still}


class _Watch:
    """Keeps time, and tells the log and the terminal about twice a second how the run goes."""

    def __init__(
        self,
        steps: int,
        batch_size: int,
        run: RunFolder,
        on_progress: Callable[[StepReport], None] | None,
    ) -> None:
        self.steps, self.batch_size = steps, batch_size
        self.run, self.on_progress = run, on_progress
        self._started = time.monotonic()
        self._told = 0.0
        self._paused = 0.0

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        return time.monotonic() - self._started - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside as training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def due(self, step: int) -> bool:
        """Say whether it is time to tell."""
        return step == self.steps or time.monotonic() - self._told > LOG_SECONDS

    def tell(self, step: int, loss: Tensor, rate: float, model: DualEncoder) -> None:
        """Tell about one step.

        Raises:
            ClipkitError: when its loss is no number.
        """
        self._told = time.monotonic()
        value = loss.item()  # the host waits for the device
        _check_finite(value, step, self.run)
        seconds = self.seconds()
        report = StepReport(
            step,
            self.steps,
            loss=value,
            logit_scale=model.logit_scale.item(),
            rate=step * self.batch_size / max(seconds, 1e-9),
            seconds_left=(self.steps - step) * seconds / step,
        )
        self.run.log("step", step=step, loss=value, lr=rate, logit_scale=report.logit_scale)
        if self.on_progress and self.run.writes:
            self.on_progress(report)


def _check_finite(loss: float, step: int, run: RunFolder) -> None:
    """Stop when the loss is no number."""
    if loss != loss or loss in (float("inf"), float("-inf")):
        run.log("failed", step=step, loss=str(loss))
        raise ClipkitError(
            f"the loss is {loss} at step {step}: lower optim.lr, lengthen optim.warmup_steps,"
            " or train with precision=float32"
        )
