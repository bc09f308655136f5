"""Which images are of one class, where some have no label."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.errors import ConfigError

NO_LABEL = -1
"""The label of an image that has none: it is of a class of its own."""


def join_views(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"] | None,
    labels: Int[Tensor, " batch"] | None,
) -> tuple[Float[Tensor, "rows dim"], Int[Tensor, " rows"]]:
    """Put the views below one another, and number their classes.

    Args:
        first: a view of each image.
        second: another view of each, or `None` for one view only.
        labels: equal numbers for images of one class, `NO_LABEL` for none; all of them without one
            when `None`.

    Returns:
        The features of all rows, and their classes, of which an unlabelled image has its own.

    Raises:
        ConfigError: when no two rows can belong together: one view and no labels.
    """
    if second is None and labels is None:
        raise ConfigError("loss: one view of each image needs labels; give labels or a second view")
    alone = torch.arange(len(first), device=first.device)
    classes = alone
    if labels is not None:
        _, numbered = torch.unique(labels, return_inverse=True)
        classes = torch.where(labels == NO_LABEL, alone + len(first), numbered)
    if second is None:
        return first, classes
    return torch.cat([first, second]), classes.repeat(2)
