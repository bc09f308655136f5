"""A recipe from start to end: the first of the three jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.data.dataset import Dataset
from clipkit.data.rejects import Rejects
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder, load
from clipkit.models.dual_encoder import Similarity
from clipkit.models.patch_dropout import set_patch_dropout
from clipkit.models.trainable import Counts, set_dropout, set_trainable
from clipkit.recipe import Plan, read_recipe
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.loop import FitResult, fit
from clipkit.train.processes import is_main_process, told_by_main, wait_for_everyone
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring
from clipkit.train.watch import StepReport
from clipkit.types import PartProgress


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run.

    Attributes:
        model: with the kept weights, in evaluation mode.
        folder: the run folder.
        metrics: what `metrics.json` holds; metrics are shares in [0, 1].
        is_main_process: whether this is the process that wrote the folder.
        was_finished: whether the run was finished before, and nothing was done.
    """

    model: DualEncoder
    folder: Path
    metrics: dict[str, Any]
    is_main_process: bool = True
    was_finished: bool = False


def train(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    restart: bool = False,
    on_start: Callable[[Counts], None] | None = None,
    on_encode: PartProgress | None = None,
    on_progress: Callable[[StepReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train as a recipe says, scoring before and after, and write the run folder.

    A run that was stopped goes on where it was; one that is finished is returned as it is.

    Args:
        recipe: a path, or the name of a recipe that ships.
        overrides: `key=value`, such as "optim.lr=1e-4" or "out=runs/mine".
        restart: begin again where the folder holds a run already.
        on_start: told how many parameters of each part train, and how many do not.
        on_encode: told how far the encoding of frozen towers is.
        on_progress: told how far the training is.
        on_note: told what is wrong with the run, in words.

    Returns:
        The model, the folder and the metrics.

    Raises:
        ConfigError: listing every problem of the recipe at once, or what the run in the folder has
            otherwise.
        Interrupted: when a signal stopped the run, after saving.
        ClipkitError: of the kinds that `clipkit.errors` draws.

    Example:
        >>> result = clipkit.train("openmoji", ["epochs=20", "out=runs/mine"])  # doctest: +SKIP
    """
    plan = read_recipe(recipe, overrides)
    main = is_main_process()
    run = RunFolder(
        plan.settings.out,
        recipe=plan.yaml(),
        differences=plan.differences,
        restart=restart,
        writes=main,
    )
    try:
        if told_by_main(run.finished):
            return _finished(plan, run)
        return _train(plan, run, on_start, on_encode, on_progress, on_note)
    finally:
        run.close()


def _finished(plan: Plan, run: RunFolder) -> TrainResult:
    """Return a run that came to its end before, once its data are known to be what they were.

    Raises:
        ConfigError: when they are not.
    """
    metrics = run.read_metrics()
    then, now = metrics["data"]["fingerprint"], plan.load_sources().data.fingerprint()
    if now != then:
        raise ConfigError(
            f"out: the run in {run.path} was finished with other data; name another folder with"
            " out=FOLDER, or begin again with --restart",
            [f"data: {then} then, {now} now"],
        )
    return TrainResult(load(str(run.model)), run.path, metrics, run.writes, True)


def _train(
    plan: Plan,
    run: RunFolder,
    on_start: Callable[[Counts], None] | None,
    on_encode: PartProgress | None,
    on_progress: Callable[[StepReport], None] | None,
    on_note: Callable[[str], None] | None,
) -> TrainResult:
    """Train what is planned, and write the rest of the run folder."""
    settings = plan.settings
    sources = plan.load_sources()
    data = sources.data
    torch.manual_seed(settings.seed)
    loss = None if plan.make_loss is None else plan.make_loss()
    model, parameters = _make_model(plan, getattr(loss, "similarity", None))
    cache = FeatureCache(report=on_encode, max_rejected=settings.max_rejected)
    if on_start is not None and run.writes:
        on_start(parameters)
    scorings = [
        Scoring(section, prefix, make(), every) for section, prefix, make, every in plan.evaluators
    ]
    try:
        result = fit(
            model,
            sources,
            loss=loss,
            optim=plan.optim,
            batches=plan.batches(),
            epochs=settings.epochs,
            seed=settings.seed,
            scorings=scorings,
            cache=cache,
            run=run,
            selection=plan.selection,
            checkpoints=plan.checkpoints,
            max_rejected=settings.max_rejected,
            precision=settings.precision,
            class_directions=plan.make_class_directions() if plan.make_class_directions else None,
            teacher=plan.teacher,
            views=plan.make_views() if plan.make_views is not None else None,
            neighbours=plan.neighbours,
            trackers=settings.trackers,
            on_progress=on_progress,
            on_note=on_note,
        )
        model.to("cpu")
        if run.writes:
            model.save(
                str(run.model),
                training_data=[data.fingerprint()],
                base=plan.save.base,
                adapters=plan.save.adapters,
            )
        wait_for_everyone()
        model.name = str(run.model.resolve())
        rejects = Rejects(1.0, [*data.rejects, *cache.rejects.values()])
        metrics = _metrics(plan, result, data, parameters, len(rejects))
        run.write_metrics(metrics)
    finally:
        if run.writes:
            Rejects(1.0, [*data.rejects, *cache.rejects.values()]).write(run.path / "rejects.jsonl")
    return TrainResult(model, run.path, metrics, run.writes)


def _make_model(plan: Plan, similarity: Similarity | None) -> tuple[DualEncoder, Counts]:
    """Make the model, and say what of it trains and what is dropped in training.

    Args:
        plan: the recipe.
        similarity: what the loss makes of the model's scores.
    """
    settings = plan.settings
    model = plan.make_model()
    if similarity is not None:
        model.use_similarity(similarity)
    if plan.data.long_captions == "pieces":
        model.long_texts = "pieces"
    parameters = set_trainable(model, plan.trainable)
    set_dropout(
        model,
        hidden=settings.dropout,
        image_features=settings.image_feature_dropout,
        text_features=settings.text_feature_dropout,
    )
    set_patch_dropout(model, settings.patch_dropout)
    model.batch_norm = settings.batch_norm
    return model, parameters


def _metrics(
    plan: Plan, result: FitResult, data: Dataset, parameters: Counts, rejected: int
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    return {
        "before": result.before,
        "after": result.after,
        "best": {"metric": plan.selection.best, "step": result.kept_step},
        "steps": result.steps,
        "final_loss": result.loss,
        "notes": list(result.notes),
        "data": {"train": plan.data.train, "fingerprint": data.fingerprint(), "rows": len(data)},
        "captions": {
            "seen": result.captions_seen,
            "cut": result.captions_cut,
            "long_captions": plan.data.long_captions,
        },
        "parameters": {
            part: {"trained": trained, "frozen": still}
            for part, (trained, still) in parameters.items()
        },
        "rejected": rejected,
    }
