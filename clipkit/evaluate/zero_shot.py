"""Zero-shot classification of a labelled data set."""

from collections.abc import Sequence

import torch

from clipkit.classify.head import class_features
from clipkit.classify.prompts import resolve_templates
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.errors import DataError
from clipkit.evaluate.encoder import DirectEncoder, Encoder
from clipkit.evaluate.metrics import mean_class_recall, top_k_accuracy
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
            `top1`, `top5` and `mean_class_recall` as shares in [0, 1], and the number of `classes`.

        Raises:
            DataError: when the data has no labels, or fewer than two classes.
        """
        encoder = encoder or DirectEncoder()
        self.data = data = load_data(self.data)
        names = data.class_names or tuple(sorted({s.label for s in data if s.label is not None}))
        if len(names) < 2:
            raise DataError(
                f"{data.name}: zero-shot classification needs two classes; it has {len(names)}"
            )
        index = {name: position for position, name in enumerate(names)}
        unknown = sorted({s.label for s in data if s.label is not None} - set(index))
        if unknown:
            raise DataError(f"{data.name}: label {unknown[0]!r} is not among its class names")
        templates = resolve_templates(self.templates or data.templates or "plain")
        image_features, rows = encoder.images(model, data)
        labelled = [(at, data[row].label) for at, row in enumerate(rows)]
        keep = [at for at, label in labelled if label is not None]
        labels = torch.tensor([index[label] for _, label in labelled if label is not None])
        weights = class_features(
            [(name,) for name in names], templates, lambda texts: encoder.texts(model, texts)
        )
        logits = image_features[keep].cpu() @ weights.cpu().T
        return {
            "top1": top_k_accuracy(logits, labels, 1),
            "top5": top_k_accuracy(logits, labels, 5),
            "mean_class_recall": mean_class_recall(logits, labels),
            "classes": float(len(names)),
        }
