"""What trains: the projections alone, one tower with them, or everything; and what is dropped."""

from clipkit.errors import ConfigError, did_you_mean
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.projections import Projection

TRAINABLE = {
    "projections": (),
    "image_tower": ("image_tower",),
    "text_tower": ("text_tower",),
    "all": ("image_tower", "text_tower"),
}
"""The towers that train with the projections and the logit scale, by the name a recipe gives."""


def set_trainable(model: DualEncoder, what: str) -> dict[str, tuple[int, int]]:
    """Freeze what does not train.

    Args:
        model: changed in place; frozen parts hold no gradient and stay in evaluation mode.
        what: a key of `TRAINABLE`.

    Returns:
        For each part of the model: how many parameters train, and how many are frozen.
    """
    if what not in TRAINABLE:
        raise ConfigError(f"trainable: {what!r} is unknown{did_you_mean(what, TRAINABLE)}")
    for tower in ("image_tower", "text_tower"):
        getattr(model, tower).requires_grad_(tower in TRAINABLE[what])
    counts = {}
    for part in ("image_tower", "text_tower", "image_projection", "text_projection"):
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
