"""Before the first step: what is frozen is encoded, and batches and losses are put together."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from clipkit.data.sources import Sources
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.train.batches import BatchSettings, PairBatches
from clipkit.train.chance import seed_chance
from clipkit.train.class_directions import ClassDirections
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.feed import Feed
from clipkit.train.grad_cache import Pairs
from clipkit.train.neighbours import NeighbourSettings
from clipkit.train.objective import Objective
from clipkit.train.step import StepObjective
from clipkit.train.teacher import Teacher, TeacherSettings
from clipkit.train.view_batches import ViewBatches
from clipkit.train.view_term import Views, ViewTerm


@dataclass(frozen=True, slots=True)
class Prepared:
    """What steps are taken with.

    Attributes:
        feed: what a step is fed.
        objective: what it minimises.
        pairs: the model as one module, in training mode.
    """

    feed: Feed
    objective: StepObjective
    pairs: Pairs


def prepare(
    model: DualEncoder,
    sources: Sources,
    *,
    loss: nn.Module | None,
    batches: BatchSettings,
    cache: FeatureCache,
    seed: int,
    max_rejected: float,
    class_directions: ClassDirections | None,
    teacher: TeacherSettings | None,
    views: Views | None,
    neighbours: NeighbourSettings | None = None,
    accelerator: Any,
) -> Prepared:
    """Put together what steps are taken with; see `fit` for the arguments."""
    rank, count = accelerator.process_index, accelerator.num_processes
    fed, own, shown, term = None, None, None, None
    if loss is not None:
        fed = PairBatches(
            model,
            sources,
            cache,
            batches,
            seed=seed,
            process_index=rank,
            process_count=count,
            number_captions=teacher is not None,
            neighbours=neighbours,
        )
        standardise_projections(model, fed)
        if class_directions is not None:
            class_directions.prepare(model, fed.image_features, cache)
        taught = None
        if teacher is not None and fed.captions is not None:
            texts, device = fed.captions.texts, model.device
            taught = Teacher(
                teacher, sources.data, texts, cache, device=device, max_rejected=max_rejected
            )
        own = Objective(loss, duplicates=batches.duplicates, teacher=taught)
    model.train()
    if views is not None:
        shown = ViewBatches(
            model,
            sources,
            views.view,
            batch_size=views.settings.batch_size or batches.batch_size,
            seed=seed,
            process_index=rank,
            process_count=count,
            workers=batches.workers,
            drop_last=batches.drop_last,
        )
        seed_chance(seed)  # of the head's first weights
        term = ViewTerm(model, views, duplicates=batches.duplicates)
    cached_images = fed is not None and fed.image_features is not None
    return Prepared(
        Feed(fed, shown),
        StepObjective(own, term),
        Pairs(model, cached_images=cached_images, views=term),
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
