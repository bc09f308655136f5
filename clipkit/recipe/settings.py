"""What a recipe says, as typed settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from clipkit.classify.prompts import resolve_templates
from clipkit.data.sources import Objective
from clipkit.errors import ConfigError
from clipkit.labelling.settings import PseudoLabelSettings
from clipkit.losses import Duplicates
from clipkit.models.storage import SaveSettings
from clipkit.sentences import LongCaptions
from clipkit.train.batches import Belonging
from clipkit.train.checkpoint import CheckpointSettings
from clipkit.train.neighbours import NeighbourSettings
from clipkit.train.optim import OptimSettings
from clipkit.train.teacher import TeacherSettings


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What to train on.

    Attributes:
        train: manifest name (with @SPLIT), manifest file, table or folder.
        image_column: column of a table with the image; found by its usual names when `None`.
        caption_column: column with the caption.
        label_column: column with the label.
        root: folder that relative image paths start from.
        label_templates: captions of a row that has a label and no caption: one with a `{}` for the
            label, a list of such, or a named set (plain, simple, imagenet). They all say the same,
            and one is drawn each epoch. The manifest's first, else "a photo of a {}.", if null.
        sample: share of the rows that is used, chosen by their ids.
        weight: how often each row is visited an epoch, in the mean: it matters beside others, which
            `also` names.
        weight_column: column with a number from 0 on that a row's weight is multiplied by, such as
            the confidence of pseudo-labels.
        objectives: what the rows are for: "pairs" (picture and caption) and "views" (two views of
            the picture); all that they allow if null.
        long_captions: what stands for a caption with more tokens than the model reads: its "head",
            one "sentence" of it, drawn anew each epoch, or all of it in "pieces" whose features are
            averaged, in training and by the trained model ever after.
    """

    train: str
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    root: str | None = None
    label_templates: str | list[str] | None = None
    sample: float = 1.0
    weight: float = 1.0
    weight_column: str | None = None
    objectives: list[Objective] | None = None
    long_captions: LongCaptions = "head"

    def __post_init__(self) -> None:
        """Check templates and numbers."""
        if not 0 < self.weight < inf:
            raise ConfigError(f"data.weight: {self.weight} is no number above 0")
        if not 0 < self.sample <= 1:
            raise ConfigError(f"data.sample: {self.sample} is not above 0 and up to 1")
        if self.objectives is not None and not self.objectives:
            raise ConfigError("data.objectives: is empty")
        if self.label_templates is not None:
            try:
                resolve_templates(self.label_templates)
            except ConfigError as error:
                raise ConfigError(f"data.label_{error}") from None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run.

    Attributes:
        data: what to train on.
        also: further data sets to train on, by name, each with what `data` has but `long_captions`.
        model: what `clipkit.load` takes, or a component.
        trainable: projections, image_tower, text_tower, all, last_blocks or lora; the latter two
            are components and have options.
        patch_dropout: share of an image's patches that a ViT does not see in training (FLIP,
            https://arxiv.org/abs/2212.00794).
        batch_norm: "fixed" keeps the statistics that batch norms have, so that no pair's features
            depend on its neighbours; "train" renews them by each batch, as from scratch they must;
            several processes then each go by their own share of it.
        batch_size: pairs a step, over all processes.
        micro_batch_size: pairs that pass through the model at once, of each process; all if null.
            Less memory, the same gradients.
        duplicates: what pairs of one picture or one caption are to each other: "positive", "mask"
            (left out) or "ignore" (negatives).
        neighbours: put rows that look alike into one batch, as hard negatives; see
            `NeighbourSettings`, or nothing: batches are by chance.
        epochs: visits of each row.
        seed: of initialisation, order, choice of caption, dropout and augmentation.
        precision: auto, bf16 or float32.
        augment: random crops of the training images.
        flip: mirror half of the training images; wrong where captions say left or right.
        drop_last: leave out the pairs that do not fill an epoch's last batch; if false, each pair
            is seen once an epoch, in batches of nearly the same size.
        workers: threads that decode images, of each process; the cores, at most 8, if null.
        dropout: share of hidden units that "mlp" projections drop in training.
        image_feature_dropout: share of its input that the image projection drops in training.
        text_feature_dropout: likewise of the text projection.
        positives: which rows are pictures and captions of one another's: those of the same
            "captions", or of the same "labels" where there are some (UniCL,
            https://arxiv.org/abs/2204.03610).
        loss: a component: clip (softmax), siglip (sigmoid) or hardest_negative; the model's scores
            mean that after. Null where captions are to teach nothing.
        views: an image-image term, beside that of the captions (SLIP) or alone: a `loss` (ntxent,
            moco, supcon, triplet), an `augment` (simclr), and what `ViewSettings` says; or nothing.
        distill: a teacher to imitate, or nothing; see `TeacherSettings`.
        pseudo_labels: rounds in which images without labels get some, see `PseudoLabelSettings`; or
            nothing.
        optim: how the parameters move.
        class_directions: options of the class-direction term, or nothing.
        evaluate: evaluators on the user's data, by prefix; `every_steps` runs them in between.
        general: evaluators of what must not be forgotten, by prefix.
        best: `prefix.metric` that chooses the model among the steps scored. If null, the mean
            recall of the first `evaluate` entry of retrieval that has `every_steps`; without one,
            or if "last", the last step's.
        patience: evaluations without a better value of it that end the run; 0 for none.
        checkpoints: when the run saves what it needs to go on, see `CheckpointSettings`.
        trackers: where else to report, by Accelerate's names: tensorboard, wandb and so on.
        max_rejected: the largest share of rows that may be unusable.
        save: what the saved model holds, see `SaveSettings`.
        out: the run folder.
    """

    data: dict[str, Any]
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: str | dict[str, Any] = "starter"
    trainable: str | dict[str, Any] = "projections"
    patch_dropout: float = 0.0
    batch_norm: Literal["fixed", "train"] = "fixed"
    batch_size: int = 256
    micro_batch_size: int | None = None
    duplicates: Duplicates = "positive"
    positives: Belonging = "captions"
    neighbours: dict[str, Any] | None = None
    epochs: int = 10
    seed: int = 0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    augment: bool = False
    flip: bool = False
    drop_last: bool = False
    workers: int | None = None
    dropout: float = 0.0
    image_feature_dropout: float = 0.0
    text_feature_dropout: float = 0.0
    loss: str | dict[str, Any] | None = "clip"
    views: dict[str, Any] | None = None
    optim: dict[str, Any] = field(default_factory=dict)
    distill: dict[str, Any] | None = None
    pseudo_labels: dict[str, Any] | None = None
    class_directions: dict[str, Any] | None = None
    evaluate: dict[str, dict[str, Any]] = field(default_factory=dict)
    general: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: str | None = None
    patience: int = 0
    checkpoints: dict[str, Any] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    max_rejected: float = 0.01
    save: dict[str, Any] = field(default_factory=dict)
    out: str = "runs/last"


SECTIONS: dict[str, Callable[..., Any]] = {
    "data": DataSettings,
    "optim": OptimSettings,
    "save": SaveSettings,
    "checkpoints": CheckpointSettings,
    "distill": TeacherSettings,
    "neighbours": NeighbourSettings,
    "pseudo_labels": PseudoLabelSettings,
}
"""What the sections of a recipe become."""
NEEDED = ("data", "distill", "neighbours", "pseudo_labels")
"""Sections without a default: the first is needed, the others absent unless they are given."""
