"""A recipe from start to end: the first of the three jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.data.rejects import Rejects
from clipkit.models import DualEncoder
from clipkit.models.trainable import Counts, set_dropout, set_trainable
from clipkit.recipe import Plan, read_recipe
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.loop import FitResult, StepReport, fit
from clipkit.train.processes import is_main_process, wait_for_everyone
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scoring
from clipkit.types import PartProgress


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run.

    Attributes:
        model: with the kept weights, in evaluation mode.
        folder: the run folder.
        metrics: what `metrics.json` holds; metrics are shares in [0, 1].
        is_main_process: whether this is the process that wrote the folder.
    """

    model: DualEncoder
    folder: Path
    metrics: dict[str, Any]
    is_main_process: bool = True


def train(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    restart: bool = False,
    on_start: Callable[[Counts], None] | None = None,
    on_encode: PartProgress | None = None,
    on_progress: Callable[[StepReport], None] | None = None,
) -> TrainResult:
    """Train as a recipe says, scoring before and after, and write the run folder.

    Args:
        recipe: a path, or the name of a recipe that ships.
        overrides: `key=value`, such as "optim.lr=1e-4" or "out=runs/mine".
        restart: replace a run that is in the folder already.
        on_start: told how many parameters of each part train, and how many do not.
        on_encode: told how far the encoding of frozen towers is.
        on_progress: told how far the training is.

    Returns:
        The model, the folder and the metrics.

    Raises:
        ConfigError: listing every problem of the recipe at once.
        ClipkitError: of the kinds that `clipkit.errors` draws.

    Example:
        >>> result = clipkit.train("openmoji", ["epochs=20", "out=runs/mine"])  # doctest: +SKIP
    """
    plan = read_recipe(recipe, overrides)
    settings = plan.settings
    data = plan.load_data()
    torch.manual_seed(settings.seed)
    model = plan.make_model()
    if plan.data.long_captions == "pieces":
        model.long_texts = "pieces"
    parameters = set_trainable(model, plan.trainable)
    set_dropout(
        model,
        hidden=settings.dropout,
        image_features=settings.image_feature_dropout,
        text_features=settings.text_feature_dropout,
    )
    scorings = [
        Scoring(section, prefix, make(), every) for section, prefix, make, every in plan.evaluators
    ]
    main = is_main_process()
    run = RunFolder(settings.out, recipe=plan.yaml(), restart=restart, writes=main)
    cache = FeatureCache(report=on_encode, max_rejected=settings.max_rejected)
    if on_start is not None and main:
        on_start(parameters)
    try:
        run.log("start", data=data.fingerprint(), rows=len(data), parameters=parameters)
        result = fit(
            model,
            data,
            loss=plan.make_loss(),
            optim=plan.optim,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
            scorings=scorings,
            cache=cache,
            run=run,
            max_rejected=settings.max_rejected,
            best=settings.best,
            augment=settings.augment,
            flip=settings.flip,
            drop_last=settings.drop_last,
            workers=settings.workers,
            long_captions=plan.data.long_captions,
            precision=settings.precision,
            class_directions=plan.make_class_directions() if plan.make_class_directions else None,
            on_progress=on_progress,
        )
        metrics = _metrics(plan, result, data.fingerprint(), len(data), parameters)
        model.to("cpu")
        if main:
            model.save(
                str(run.model),
                training_data=[data.fingerprint()],
                base=plan.save.base,
                adapters=plan.save.adapters,
            )
        wait_for_everyone()
        model.name = str(run.model.resolve())
        run.write_metrics(metrics)
    finally:
        rejects = Rejects(1.0, [*data.rejects, *cache.rejects.values()])
        if main:
            rejects.write(run.path / "rejects.jsonl")
        run.close()
    return TrainResult(model, run.path, {**metrics, "rejected": len(rejects)}, main)


def _metrics(
    plan: Plan,
    result: FitResult,
    fingerprint: str,
    rows: int,
    parameters: Counts,
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    return {
        "before": result.before,
        "after": result.after,
        "best": {"metric": plan.settings.best, "step": result.kept_step},
        "steps": result.steps,
        "training_seconds": round(result.seconds, 2),
        "final_loss": result.loss,
        "data": {"train": plan.data.train, "fingerprint": fingerprint, "rows": rows},
        "captions": {
            "seen": result.captions_seen,
            "cut": result.captions_cut,
            "long_captions": plan.data.long_captions,
        },
        "parameters": {
            part: {"trained": trained, "frozen": still}
            for part, (trained, still) in parameters.items()
        },
    }
