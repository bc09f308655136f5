"""Which pairs of a batch belong together: by content, not by position."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def positives_by_content(
    image_keys: Int[Tensor, " batch"], text_keys: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch batch"]:
    """Say which image belongs to which text of a batch of pairs.

    Image i and text j are positives when they come from the same pair, when the two images are the
    same, or when the two texts are the same; so a picture or a caption that occurs twice is never a
    false negative (multi-positive contrast: SupCon, https://arxiv.org/abs/2004.11362; UniCL,
    https://arxiv.org/abs/2204.03610).

    Args:
        image_keys: equal numbers for equal images.
        text_keys: equal numbers for equal texts.

    Returns:
        True where image (row) and text (column) are positives; the diagonal always is.
    """
    same_image = image_keys[:, None] == image_keys[None, :]
    same_text = text_keys[:, None] == text_keys[None, :]
    return torch.logical_or(same_image, same_text)
