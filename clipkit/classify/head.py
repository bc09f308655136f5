"""The head of a classifier: from an image's features to a logit for each label."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipkit.encode import encode_texts
from clipkit.models import DualEncoder
from clipkit.packages import cache_folder, replace_file

WORTH_KEEPING = 500
"""Prompts from which on their features are kept on disk; of fewer, reading the weights for the
model's fingerprint takes longer than encoding them."""

IMAGES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class ExampleCache:
    """Labelled images that vote for their labels (Tip-Adapter, https://arxiv.org/abs/2111.03930).

    Each example adds `weight * exp(-sharpness * (1 - cosine))` to the logit of its label.

    Attributes:
        features: of the examples, L2-normalised.
        labels: their columns.
        weight: the paper's alpha.
        sharpness: the paper's beta.
    """

    features: Float[Tensor, "examples dim"]
    labels: Int[Tensor, " examples"]
    weight: float
    sharpness: float

    def __call__(
        self, features: Float[Tensor, "images dim"], classes: int
    ) -> Float[Tensor, "images classes"]:
        """Return what the examples add to the logits."""
        near = torch.exp(self.sharpness * (features @ self.features.T - 1))
        votes = features.new_zeros(len(features), classes).index_add(1, self.labels, near)
        return self.weight * votes


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier on L2-normalised image features, and examples that vote besides.

    Attributes:
        weights: the logit scale is in them.
        bias: of each label.
        examples: labelled images, if any.
    """

    weights: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    examples: ExampleCache | None = None

    def __call__(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images classes"]:
        """Return the logits."""
        logits = features @ self.weights.T + self.bias
        if self.examples is None:
            return logits
        for start in range(0, len(features), IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            logits[some] += self.examples(features[some], len(self.bias))
        return logits


def zero_shot_head(model: DualEncoder, classes: Float[Tensor, "classes dim"]) -> Head:
    """Return the head whose logits are `logit_scale * cosine (+ logit_bias)`."""
    bias = classes.new_zeros(len(classes))
    if model.logit_bias is not None:
        bias = bias + model.logit_bias.detach().cpu()
    return Head(model.logit_scale.detach().cpu() * classes, bias)


def class_features(
    names: Sequence[Sequence[str]],
    templates: Sequence[str],
    encode: Callable[[list[str]], Float[Tensor, "texts dim"]],
) -> Float[Tensor, "classes dim"]:
    """Return one vector for each class: the mean of its prompts' features, on the unit sphere.

    Prompt ensembling as in section 3.1.4 of Radford et al. 2021 (https://arxiv.org/abs/2103.00020):
    the features are normalised, averaged over templates and names, and normalised again.

    Args:
        names: for each class the names that stand for it, at least one.
        templates: prompts with one `{}` each.
        encode: texts to L2-normalised features.
    """
    prompts = [[t.replace("{}", name) for name in group for t in templates] for group in names]
    features = encode([prompt for group in prompts for prompt in group])
    means, start = [], 0
    for group in prompts:
        means.append(features[start : start + len(group)].mean(0))
        start += len(group)
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def kept_class_features(
    model: DualEncoder, names: Sequence[Sequence[str]], templates: Sequence[str]
) -> Float[Tensor, "classes dim"]:
    """Return what `class_features` does; of many prompts, it is kept in the cache folder.

    The file's name is made of the model's fingerprint and of all prompts. One that is damaged, or a
    folder that cannot be written to, costs the time of encoding and nothing else.
    """

    def make() -> Float[Tensor, "classes dim"]:
        return class_features(names, templates, lambda texts: encode_texts(model, texts))

    if sum(map(len, names)) * len(templates) < WORTH_KEEPING:
        return make()
    told = json.dumps([model.fingerprint(), bool(model.tower_digests), names, templates])
    key = hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()
    path = cache_folder() / "labels" / f"{key}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):
        found: Tensor = load(path.read_bytes())["class_features"]
        if found.shape == (len(names), model.dim):
            return found
    features = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, save({"class_features": features.contiguous()}))
    return features
