"""What a recipe says of pseudo-labels."""

from dataclasses import dataclass

from clipkit.classify.prompts import resolve_templates
from clipkit.classify.pseudo_labels import check_rule
from clipkit.errors import ConfigError
from clipkit.labelling.write import Labelled, Rule


@dataclass(frozen=True, slots=True)
class PseudoLabelSettings:
    """Rounds of self-training: label what has no label, train on it too, and again.

    Attributes:
        data: images without labels, as `data.train` has it.
        metric: `PREFIX.METRIC` of an entry of `evaluate`, on data that is not trained on: a round
            that does not better it is the last one.
        rounds: of labelling and training, at most; the first training, on the labelled alone, is
            not among them.
        min_confidence: the least confidence of a label that is trained on.
        top_per_class: at most so many images of each label, the surest.
        calibrate: labelled data by which the confidence becomes a probability, such as that of the
            metric. If null, the labelled data of the recipe, each image left out in turn of what
            is fitted on the model's features; the model itself was trained on them by then, so
            that it is surer than it should be.
        templates: prompts of the classifier that labels, by name or as a list.
        labelled: what becomes of rows of `data` that have a label: "skip", "keep" or "relabel".
        weight: of the pseudo-labelled rows, which their confidence is multiplied by: how often each
            is visited an epoch, beside 1 of the labelled.
    """

    data: str
    metric: str
    rounds: int = 3
    min_confidence: float | None = None
    top_per_class: int | None = None
    calibrate: str | None = None
    templates: str | list[str] = "simple"
    labelled: Labelled = "skip"
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers and the templates."""
        problems = []
        for check in (
            lambda: check_rule(self.min_confidence, self.top_per_class),
            lambda: resolve_templates(self.templates),
        ):
            try:
                check()
            except ConfigError as error:
                problems.append(f"pseudo_labels.{error}")
        if self.rounds < 1:
            problems.append(f"pseudo_labels.rounds: {self.rounds} is less than 1")
        if not 0 < self.weight < float("inf"):
            problems.append(f"pseudo_labels.weight: {self.weight} is no number above 0")
        if problems:
            raise ConfigError("pseudo_labels cannot be used:", problems)

    @property
    def rule(self) -> Rule:
        """Which labels are trained on."""
        return Rule(self.min_confidence, self.top_per_class)
