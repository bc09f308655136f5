"""A classifier in a folder: its labels' features, and the image side of the model.

classifier.json     labels, templates, options, calibration, sha256 of each file
head.safetensors    weights of the labels, and of what else there is
model/              the image tower and its projection, see `models.image_side`
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from clipkit.classify.few_shot import Adapt, Choice, FewShot
from clipkit.classify.head import ExampleCache, Head
from clipkit.classify.temperature import Calibration, Temperature
from clipkit.errors import ModelError
from clipkit.models import DualEncoder
from clipkit.models.image_side import ImageSide, load_image_side, save_image_side
from clipkit.models.references import read_tensors
from clipkit.models.storage import check_files, list_files
from clipkit.packages import new_folder

FORMAT = 1
CLASSIFIER = "classifier.json"
HEAD = "head.safetensors"
MODEL = "model"


@dataclass(frozen=True, slots=True)
class ClassifierFile:
    """What a classifier is, less its image side.

    Attributes:
        labels: with the names that stand for each.
        templates: prompts with one `{}` each.
        scores: as the constructor has it.
        other: as the constructor has it.
        adapt: as the constructor has it.
        threshold: probability that the likeliest label must have, if any.
        temperature: of the logits.
        head: of the labels.
        others: of the prompts that stand for none of them, if any.
        few_shot: what `fit` did, if it was called.
        calibration: what `calibrate` found, if it was called.
    """

    labels: dict[str, tuple[str, ...]]
    templates: tuple[str, ...]
    scores: Any
    other: Any
    adapt: Adapt
    threshold: float | None
    temperature: Temperature
    head: Head
    others: Head | None
    few_shot: FewShot | None
    calibration: Calibration | None


def is_classifier(folder: Path) -> bool:
    """Say whether a folder holds a classifier."""
    return (folder / CLASSIFIER).is_file()


def write_classifier(folder: Path, content: ClassifierFile, model: DualEncoder) -> None:
    """Write a classifier; an older one in the same place is replaced once this one is whole.

    Raises:
        ModelError: the folder holds something else, or the model was loaded in bf16.
    """
    if folder.is_file():
        raise ModelError(f"{folder} is a file: name a folder for the classifier")
    if folder.exists() and any(folder.iterdir()) and not is_classifier(folder):
        raise ModelError(f"{folder} holds files that are no classifier: choose another folder")
    with new_folder(folder) as staging:
        (staging / MODEL).mkdir()
        save_image_side(model, staging / MODEL)
        (staging / HEAD).write_bytes(save(_tensors(content)))
        examples = content.head.examples
        told = {
            "format": FORMAT,
            "labels": content.labels,
            "templates": content.templates,
            "scores": content.scores,
            "other": content.other,
            "adapt": content.adapt,
            "threshold": content.threshold,
            "temperature": asdict(content.temperature),
            "examples": examples and {"weight": examples.weight, "sharpness": examples.sharpness},
            "few_shot": content.few_shot and asdict(content.few_shot),
            "calibration": content.calibration and asdict(content.calibration),
            "files": list_files(staging),
        }
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        (staging / CLASSIFIER).write_text(text, encoding="utf-8")


def read_classifier(folder: Path) -> tuple[ClassifierFile, ImageSide]:
    """Read a classifier and the image side of its model.

    Raises:
        ModelError: the folder holds something else, or a file in it is missing or changed.
    """
    path = folder / CLASSIFIER
    if not is_classifier(folder):
        raise ModelError(f"{folder} is no classifier: it has no {CLASSIFIER}")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ModelError(f"{path} has format {told['format']!r}; this clipkit reads {FORMAT}")
        check_files(folder, told["files"])
        content = _content(told, read_tensors(folder / HEAD))
        _check(content)
        return content, load_image_side(folder / MODEL)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error!r}") from None


def _tensors(content: ClassifierFile) -> dict[str, Tensor]:
    """Return what is saved of the heads."""
    head, others = content.head, content.others
    tensors = {"weights": head.weights, "bias": head.bias}
    if head.examples is not None:
        tensors["example_features"] = head.examples.features
        tensors["example_labels"] = head.examples.labels
    if others is not None:
        tensors |= {"other_weights": others.weights, "other_bias": others.bias}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _check(content: ClassifierFile) -> None:
    """Raise ValueError for what a hand at work in the file may have made of it."""
    rows = len(content.head.weights)
    if len(content.labels) != rows or len(content.head.bias) != rows:
        raise ValueError(f"{len(content.labels)} labels for {rows} rows of weights")
    temperature = content.temperature
    if not (0 < temperature.value < math.inf and math.isfinite(temperature.shift)):
        raise ValueError(f"temperature {temperature.value!r}, shift {temperature.shift!r}")
    if content.threshold is not None and not 0 <= content.threshold <= 1:
        raise ValueError(f"threshold {content.threshold!r}")


def _content(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ClassifierFile:
    """Put a classifier together again."""
    examples = told["examples"] and ExampleCache(
        tensors["example_features"], tensors["example_labels"], **told["examples"]
    )
    others = None
    if "other_weights" in tensors:
        others = Head(tensors["other_weights"], tensors["other_bias"])
    few, found = told["few_shot"], told["calibration"]
    return ClassifierFile(
        labels={label: tuple(names) for label, names in told["labels"].items()},
        templates=tuple(told["templates"]),
        scores=told["scores"],
        other=told["other"],
        adapt=told["adapt"],
        threshold=told["threshold"],
        temperature=Temperature(**told["temperature"]),
        head=Head(tensors["weights"], tensors["bias"], examples),
        others=others,
        few_shot=few and FewShot(**{**few, "choice": Choice(**few["choice"])}),
        calibration=found
        and Calibration(**{**found, "temperature": Temperature(**found["temperature"])}),
    )
