"""What an image tower's own classifier knows, handed on to the joint space without a picture more.

Captions name a few hundred things; the classifier that an image tower was trained with knows a
thousand. Two terms hand that on. Neither needs a labelled image.

Directions: with a linear classifier W on features of covariance Σ, the mean feature of class c is
about μ + k Σ W_c (the identity of linear discriminant analysis, Fisher 1936). A prototype of that
kind, plus the offset of some photograph as noise, is an image of class c as the projection sees it.

Distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): for a photograph, the softmax
over the class names should be what the classifier gives.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.classify.prompts import resolve_templates
from clipkit.errors import ConfigError
from clipkit.imagenet import imagenet_class_names
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection
from clipkit.models.starter import IMAGE_ARCHITECTURE, starter_classifier
from clipkit.train.feature_cache import FeatureCache

MAX_FEATURE = 6.0  # the tower's last activation is a ReLU6


class ClassDirections:
    """Two terms of a loss over the 1,000 ImageNet class names, for the starter's image tower.

    Args:
        weight: of the cross-entropy of class prototypes over all class names.
        distill: of the cross-entropy between the classifier's softmax and that over class names.
        classes_per_step: prototypes drawn a step.
        offset: mean length of the directions, as a multiple of a photograph's mean offset.
        noise: share of a random photograph's offset that is added to a prototype.
        templates: a named set or a list of prompts; each step draws one for each class.
    """

    def __init__(
        self,
        *,
        weight: float = 0.4,
        distill: float = 1.0,
        classes_per_step: int = 128,
        offset: float = 2.0,
        noise: float = 0.5,
        templates: str | Sequence[str] = "simple",
    ) -> None:
        """Keep the settings."""
        self.weight = weight
        self.distill = distill
        self.classes_per_step = classes_per_step
        self.offset = offset
        self.noise = noise
        self.templates = resolve_templates(templates)

    def prepare(
        self, model: DualEncoder, image_features: Tensor | None, cache: FeatureCache
    ) -> None:
        """Work out the directions and encode the class names.

        Args:
            model: with the starter's towers, both frozen.
            image_features: what the image tower gives for the training photos [rows, features].
            cache: encodes the class names once.

        Raises:
            ConfigError: when the model is another, or its towers train.
        """
        if model.architecture["image_tower"].get("timm") != IMAGE_ARCHITECTURE:
            raise ConfigError("class_directions: only the starter's image tower has a classifier")
        heads = (model.image_projection, model.text_projection)
        if image_features is None or not all(isinstance(head, Projection) for head in heads):
            raise ConfigError("class_directions: needs trainable: projections and augment: false")
        device = model.device
        weight, bias = (part.to(device) for part in starter_classifier())
        features = image_features.to(device)
        self._image_projection = model.image_projection
        self._text_projection = model.text_projection
        self._weight, self._bias = weight, bias
        self._mean = features.mean(0)
        self._offsets = features - self._mean
        covariance = self._offsets.T @ self._offsets / len(features)
        directions = weight @ covariance
        length = self.offset * self._offsets.norm(dim=1).mean() / directions.norm(dim=1).mean()
        self._directions = directions * length
        names = imagenet_class_names(unique=False)  # what the starter's weights were made with
        prompts = [template.replace("{}", name) for name in names for template in self.templates]
        encoded = cache.text_tower(model, prompts, what="class prompts").to(device)
        self._names = encoded.reshape(len(names), len(self.templates), -1)

    def __call__(
        self, model: DualEncoder, image_features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, ""]:
        """Return the two terms, weighted, for one step."""
        device = image_features.device
        classes = len(self._names)
        draw = torch.randint(self._names.shape[1], (classes,), device=device)
        prompts = self._names[torch.arange(classes, device=device), draw]
        names = self._project(self._text_projection, prompts)
        chosen = torch.randint(classes, (self.classes_per_step,), device=device)
        photos = torch.randint(len(self._offsets), (self.classes_per_step,), device=device)
        prototypes = self._mean + self._directions[chosen] + self.noise * self._offsets[photos]
        logits = self._logits(prototypes.clamp(0, MAX_FEATURE), names, model.logit_scale)
        direct = nn.functional.cross_entropy(logits, chosen)
        believed = (image_features @ self._weight.T + self._bias).softmax(1)
        distilled = nn.functional.cross_entropy(
            self._logits(image_features, names, model.logit_scale), believed
        )
        return self.weight * direct + self.distill * distilled

    def _logits(self, features: Tensor, names: Tensor, scale: Tensor) -> Tensor:
        """Score image features against projected class names."""
        return scale * self._project(self._image_projection, features) @ names.T

    @staticmethod
    def _project(projection: nn.Module, features: Tensor) -> Tensor:
        """Project onto the unit sphere, without feature dropout."""
        projected: Tensor = projection(features, drop_features=False).float()
        return nn.functional.normalize(projected, dim=-1)
