"""Zero-shot classification of a labelled data set."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.classify.head import class_features, zero_shot_head
from clipkit.classify.prompts import resolve_templates
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.evaluate.answers import CHUNK, Labelled, answer, class_names
from clipkit.evaluate.details import ClassificationDetails, TemplateScore
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.models.dual_encoder import DualEncoder


class ZeroShot:
    """Classifies every labelled image among the data set's classes (Radford et al. 2021).

    Args:
        data: a data set, or what `load_data` takes, with labels; rows without one do not count.
        templates: a named set or a list of prompts; the data set's own where it has some, else
            "plain".
    """

    def __init__(
        self, *, data: str | Dataset, templates: str | Sequence[str] | None = None
    ) -> None:
        """Keep the settings; the data is read on first use."""
        self.data = data
        self.templates = templates

    def __call__(self, model: DualEncoder, encoder: Encoder | None = None) -> dict[str, float]:
        """Score a model.

        Returns:
            `top1`, `top5` and `mean_class_recall` as shares in [0, 1], each with the ends of its
            95 % bootstrap interval over images (`top1_low`, `top1_high`); `ece`, the expected
            calibration error, which for a sigmoid model is that of the answer's own probability;
            and the number of `classes`.

        Raises:
            DataError: when the data has no labels, or fewer than two classes.
        """
        return self._details(model, encoder, with_templates=False).metrics

    def details(self, model: DualEncoder, encoder: Encoder | None = None) -> ClassificationDetails:
        """Score a model, and return besides what is behind it: classes, images, prompts.

        Raises:
            DataError: as a call does.
        """
        return self._details(model, encoder, with_templates=True)

    def _details(
        self, model: DualEncoder, encoder: Encoder | None, *, with_templates: bool
    ) -> ClassificationDetails:
        """Encode images and prompts, once, and answer."""
        encoder = encoder or DirectEncoder()
        self.data = data = load_data(self.data)
        names = class_names(data)
        if len(names) < 2:
            raise DataError(
                f"{data.name}: zero-shot classification needs two classes; it has {len(names)}"
            )
        unknown = sorted({s.label for s in data if s.label is not None} - set(names))
        if unknown:
            raise DataError(f"{data.name}: label {unknown[0]!r} is not among its class names")
        templates = resolve_templates(self.templates or data.templates or "plain")
        features, rows = encoder.images(model, data)
        labelled = Labelled.of(data, rows)
        if not labelled.places:
            raise DataError(f"{data.name}: no image that can be read has a label")
        features, labels = features[labelled.places].cpu(), labelled.numbers(names)
        prompts: list[Tensor] = []

        def encode(texts: list[str]) -> Tensor:
            prompts.append(encoder.texts(model, texts))
            return prompts[-1]

        weights = class_features([(name,) for name in names], templates, encode).cpu()
        head = zero_shot_head(model, weights)
        answers = answer(features, labels, head, similarity=model.similarity)
        metrics = {**answers.metrics(), "classes": float(len(names))}
        told: tuple[TemplateScore, ...] = ()
        if with_templates:
            each = prompts[0].cpu().view(len(names), len(templates), -1)
            told = template_scores(features, labels, each, templates, metrics["top1"])
        return ClassificationDetails(metrics, names, labelled.ids, answers, told)


def template_scores(
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    prompts: Float[Tensor, "classes templates dim"],
    templates: Sequence[str],
    together: float,
) -> tuple[TemplateScore, ...]:
    """Return top-1 of each prompt by itself, and of the others without it.

    An image's product with the sum of all prompts less that with one of them is its product with
    the others, so that one product a prompt serves for both.

    Args:
        features: of the images.
        labels: numbers of their classes.
        prompts: features of each class in each prompt.
        templates: what the prompts are.
        together: top-1 of all.
    """
    total = prompts.sum(1)
    alone, without = torch.zeros(2, len(templates), dtype=torch.long)
    lengths = [(total - prompts[:, at]).norm(dim=1) for at in range(len(templates))]
    for chunk, right in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
        whole = chunk @ total.T
        for at, length in enumerate(lengths):
            scores = chunk @ prompts[:, at].T
            others = (whole - scores) / length.clamp_min(1e-12)
            alone[at] += (scores.argmax(1) == right).sum()
            without[at] += (others.argmax(1) == right).sum()
    scores = []
    for at, template in enumerate(templates):
        rest = int(without[at]) / len(labels) if len(templates) > 1 else None
        gain = None if rest is None else together - rest
        scores.append(TemplateScore(template, int(alone[at]) / len(labels), rest, gain))
    return tuple(sorted(scores, key=lambda s: (-(s.gain or 0.0), -s.alone, s.template)))
