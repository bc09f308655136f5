"""What a classifier answered, image by image, and what that is worth."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipkit.classify.calibration import calibration_error
from clipkit.classify.temperature import probabilities
from clipkit.data.dataset import Dataset
from clipkit.evaluate.bootstrap import resampled_class_recall, resampled_ratios, with_interval
from clipkit.evaluate.metrics import mean_class_recall
from clipkit.models.dual_encoder import Similarity

CHUNK = 2048
"""Images whose logits are held at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answers to some labelled images.

    Attributes:
        labels: what the images are, as numbers of classes.
        predicted: the likeliest class.
        among_five: whether the right one is among the five likeliest.
        confidence: probability of the predicted class.
    """

    labels: Int[Tensor, " images"]
    predicted: Int[Tensor, " images"]
    among_five: Bool[Tensor, " images"]
    confidence: Float[Tensor, " images"]

    @property
    def right(self) -> Bool[Tensor, " images"]:
        """Whether the likeliest class is the right one."""
        return self.predicted == self.labels

    def metrics(self) -> dict[str, float]:
        """Return `top1`, `top5` and `mean_class_recall`, each with its interval, and `ece`.

        The intervals, `top1_low` to `top1_high` and so on, are what 95 % of samples of as many
        images, drawn from these with replacement, would score.
        """
        hits = torch.stack([self.right, self.among_five], dim=1).double()
        top1, top5 = resampled_ratios(hits, torch.ones_like(hits)).unbind(1)
        recalls = resampled_class_recall(self.labels, self.right)
        return {
            **with_interval("top1", hits[:, 0].mean().item(), top1),
            **with_interval("top5", hits[:, 1].mean().item(), top5),
            **with_interval(
                "mean_class_recall", mean_class_recall(self.labels, self.right), recalls
            ),
            "ece": calibration_error(self.confidence, self.right),
        }


def answer(
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    logits: Callable[[Float[Tensor, "chunk dim"]], Float[Tensor, "chunk classes"]],
    *,
    similarity: Similarity = "softmax",
) -> Answers:
    """Classify images by their features, some at a time.

    Args:
        features: of the images.
        labels: what they are.
        logits: of features.
        similarity: "softmax" has the classes share one probability; by "sigmoid" each class has
            one of its own, and an answer's confidence is that of its class.
    """
    predicted, among_five, confidence = [], [], []
    for chunk, right in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
        scores = logits(chunk)
        top = scores.topk(min(5, scores.shape[1]), dim=1)
        predicted.append(top.indices[:, 0])
        among_five.append((top.indices == right[:, None]).any(1))
        confidence.append(probabilities(scores, similarity).amax(1))
    return Answers(labels, torch.cat(predicted), torch.cat(among_five), torch.cat(confidence))


@dataclass(frozen=True, slots=True)
class Labelled:
    """The rows of a data set that have a label, as a classifier needs them.

    Attributes:
        places: of the features that belong to them.
        ids: of the rows.
        labels: as they are written.
    """

    places: list[int]
    ids: list[str]
    labels: list[str]

    @classmethod
    def of(cls, data: Dataset, rows: list[int]) -> "Labelled":
        """Choose among rows that could be read."""
        found = [(at, data[row]) for at, row in enumerate(rows)]
        kept = [(at, s.id, s.label) for at, s in found if s.label is not None]
        places, ids, labels = zip(*kept, strict=True) if kept else ((), (), ())
        return cls(list(places), list(ids), list(labels))

    def numbers(self, names: tuple[str, ...]) -> Int[Tensor, " images"]:
        """Return the labels as places in a list of class names."""
        index = {name: at for at, name in enumerate(names)}
        return torch.tensor([index[label] for label in self.labels], dtype=torch.long)


def class_names(data: Dataset) -> tuple[str, ...]:
    """Return the classes of a data set: those it names, else those that occur."""
    return data.class_names or tuple(sorted({s.label for s in data if s.label is not None}))
