"""What trains: everything, the projections, one tower, its last blocks, adapters; what is dropped.

The projections and the logit scale train in every case.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from clipkit.errors import ConfigError, did_you_mean
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters
from clipkit.models.projections import Projection
from clipkit.models.structure import TOWERS, TowerName, find_blocks, used_from

PARTS = ("image_tower", "text_tower", "image_projection", "text_projection")


Trainable = Callable[[DualEncoder], Iterator[nn.Parameter]]
"""Yields the parameters that train, of a model whose towers are frozen; it may add some."""


@dataclass(frozen=True, slots=True)
class WholeTowers:
    """All of some towers.

    Attributes:
        towers: their names.
    """

    towers: tuple[TowerName, ...] = TOWERS

    def __call__(self, model: DualEncoder) -> Iterator[nn.Parameter]:
        """Yield their parameters."""
        for tower in self.towers:
            yield from model.get_submodule(tower).parameters()


def projections() -> Trainable:
    """Nothing of the towers: locked on both sides."""
    return WholeTowers(())


def image_tower() -> Trainable:
    """The image tower; the text tower is locked."""
    return WholeTowers(("image_tower",))


def text_tower() -> Trainable:
    """The text tower; the image tower is locked (LiT, https://arxiv.org/abs/2111.07991)."""
    return WholeTowers(("text_tower",))


def everything() -> Trainable:
    """Both towers."""
    return WholeTowers()


@dataclass(frozen=True, slots=True)
class LastBlocks:
    """The last blocks of each tower and what comes after them, norms and pooling among it.

    A block is what a tower repeats: a layer of a transformer, a residual block of a ResNet, a stage
    of EfficientNet's, ConvNeXt's or Swin's kind; see `structure.find_blocks`.

    Attributes:
        n: of each tower.
        image: of the image tower, where it is another number; 0 locks the tower.
        text: likewise of the text tower.
    """

    n: int = 1
    image: int | None = None
    text: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("n", "image", "text"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"trainable.{name}: {getattr(self, name)} is less than 0")

    def __call__(self, model: DualEncoder) -> Iterator[nn.Parameter]:
        """Yield the parameters that a gradient reaches from the output back to the first block."""
        for tower, given in zip(TOWERS, (self.image, self.text), strict=True):
            n = self.n if given is None else given
            root = model.get_submodule(tower)
            blocks = find_blocks(root)
            if n > len(blocks):
                raise ConfigError(
                    f"trainable: {tower} has {len(blocks)} block{'s' * (len(blocks) != 1)}, not {n}"
                )
            if n:
                used = used_from(model, tower, blocks[-n][1])
                yield from (p for name, p in root.named_parameters() if name in used)


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (https://arxiv.org/abs/2106.09685); see `lora.add_lora`.

    Attributes:
        rank: of each weight's change.
        alpha: the change is scaled by alpha / rank.
        dropout: share of a layer's input that its adapter does not see in training.
        layers: "attention", "mlp", or ends of module names.
        towers: which get adapters.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: tuple[str, ...] = ("attention", "mlp")
    towers: tuple[TowerName, ...] = TOWERS

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rank < 1:
            raise ConfigError(f"trainable.rank: {self.rank} is less than 1")
        if not self.alpha > 0:
            raise ConfigError(f"trainable.alpha: {self.alpha} is not above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"trainable.dropout: {self.dropout} is not a share from 0 up to 1")
        for name in ("layers", "towers"):
            if not getattr(self, name):
                raise ConfigError(f"trainable.{name}: is empty")

    def __call__(self, model: DualEncoder) -> Iterator[nn.Parameter]:
        """Add the adapters, unless the model has some of this rank and alpha; yield them."""
        there = model.architecture.get("lora")
        if there is None:
            add_lora(
                model,
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                layers=self.layers,
                towers=self.towers,
            )
        elif (there["rank"], there["alpha"]) != (self.rank, self.alpha):
            raise ConfigError(
                f"trainable: the model has adapters of rank {there['rank']} and alpha"
                f" {there['alpha']} already: train those on, or save it with adapters merged"
            )
        yield from lora_parameters(model)


TRAINABLE: Mapping[str, Callable[..., Trainable]] = {
    "projections": projections,
    "image_tower": image_tower,
    "text_tower": text_tower,
    "all": everything,
    "last_blocks": LastBlocks,
    "lora": Lora,
}
"""What a recipe's `trainable` can name."""

Counts = dict[str, tuple[int, int]]
"""For each part of a model: how many of its parameters train, and how many are frozen."""


def set_trainable(model: DualEncoder, what: str | Trainable) -> Counts:
    """Freeze what does not train.

    Args:
        model: changed in place; frozen parts hold no gradient and stay in evaluation mode.
        what: a key of `TRAINABLE`, for what it does by default, or what one of them makes.

    Returns:
        For each part of the model: how many parameters train, and how many are frozen.

    Raises:
        ConfigError: when there is no such choice, or the model has not what it asks for.
    """
    if isinstance(what, str):
        if what not in TRAINABLE:
            raise ConfigError(f"trainable: {what!r} is unknown{did_you_mean(what, TRAINABLE)}")
        what = TRAINABLE[what]()
    model.requires_grad_(True)
    for tower in TOWERS:
        model.get_submodule(tower).requires_grad_(False)
    for parameter in list(what(model)):
        parameter.requires_grad_(True)
    if not any(p.requires_grad for part in PARTS for p in getattr(model, part).parameters()):
        raise ConfigError(
            "trainable: nothing would train but the logit scale, for this model has no projections"
            " apart from its towers: write last_blocks, lora, a tower or all"
        )
    model.train(model.training)
    return count_parameters(model)


def count_parameters(model: DualEncoder) -> Counts:
    """Count for each part of a model how many of its parameters train, and how many do not."""
    counts = {}
    for part in PARTS:
        sizes = [(p.numel(), p.requires_grad) for p in getattr(model, part).parameters()]
        trained = sum(size for size, trains in sizes if trains)
        counts[part] = (trained, sum(size for size, _ in sizes) - trained)
    return counts


def set_dropout(
    model: DualEncoder,
    *,
    hidden: float = 0.0,
    image_features: float = 0.0,
    text_features: float = 0.0,
) -> None:
    """Set what the projections drop in training; a saved model does not keep it.

    Args:
        model: changed in place.
        hidden: share of the hidden units of "mlp" projections.
        image_features: share of the standardised features that enter the image projection.
        text_features: likewise of the text projection.

    Raises:
        ConfigError: when a share is not in [0, 1), or the model's projections have none to set.
    """
    shares = {
        "dropout": hidden,
        "image_feature_dropout": image_features,
        "text_feature_dropout": text_features,
    }
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{name}: {share} is not a share from 0 up to 1")
    for projection, features in (
        (model.image_projection, image_features),
        (model.text_projection, text_features),
    ):
        if isinstance(projection, Projection):
            projection.dropout.p = hidden
            projection.feature_dropout.p = features
        elif hidden or features:
            raise ConfigError(f"dropout: {type(projection).__name__} has none to set")
