"""Which pairs of a batch belong together: by content, not by position."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Duplicates = Literal["positive", "mask", "ignore"]
"""What an image and a text are to each other whose pairs share an image or a caption: positives
(SupCon, https://arxiv.org/abs/2004.11362; UniCL, https://arxiv.org/abs/2204.03610), left out of the
loss, or negatives like any other."""


@dataclass(frozen=True, eq=False)
class Positives:
    """Says which image belongs to which text of a batch of pairs, some rows at a time.

    Image i and text i always do. Two pairs are duplicates when their images are equal or their
    texts are. Only the places of duplicates are ever listed, never a mask of batch x batch.

    Attributes:
        image_keys: equal numbers for equal images.
        text_keys: equal numbers for equal texts.
        duplicates: what image i and text j of duplicates are to each other.

    Example:
        >>> image_keys, text_keys = torch.tensor([0, 1, 0]), torch.tensor([5, 6, 7])
        >>> rows, columns = Positives(image_keys, text_keys).pairs(range(3))
        >>> sorted(zip(rows.tolist(), columns.tolist()))
        [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)]
    """

    image_keys: Int[Tensor, " batch"]
    text_keys: Int[Tensor, " batch"]
    duplicates: Duplicates = "positive"

    @classmethod
    def diagonal(cls, batch: int, device: torch.device) -> "Positives":
        """Image i belongs to text i alone."""
        keys = torch.arange(batch, device=device)
        return cls(keys, keys, "ignore")

    def share(self) -> float:
        """Return the share of the batch's pairs that have a duplicate in it, whatever they are."""
        return float((self._alike > 1).float().mean())

    @cached_property
    def count(self) -> Int[Tensor, " batch"]:
        """How many texts are positives of each image, and images of each text."""
        if self.duplicates == "positive":
            return self._alike
        return torch.ones_like(self.image_keys)

    @cached_property
    def count_left_out(self) -> Int[Tensor, " batch"]:
        """How many texts are left out for each image, and images for each text."""
        if self.duplicates == "mask":
            return self._alike - 1
        return torch.zeros_like(self.image_keys)

    def pairs(self, rows: range) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
        """List the positives of some rows.

        Args:
            rows: of the batch, one after the other.

        Returns:
            The row of each, counted from the first of `rows`, and its column.
        """
        if self.duplicates == "positive" and len(self._members):
            return self._duplicates(rows, with_alone=True)
        columns = torch.arange(rows.start, rows.stop, device=self.image_keys.device)
        return columns - rows.start, columns

    def left_out(self, rows: range) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]] | None:
        """List what the loss leaves out of some rows, as `pairs` does; `None` for nothing."""
        if self.duplicates != "mask" or not len(self._members):
            return None
        row, column = self._duplicates(rows, with_alone=False)
        other = row + rows.start != column
        return row[other], column[other]

    @cached_property
    def _alike(self) -> Int[Tensor, " batch"]:
        """How many pairs have the image or the text of each pair, itself among them."""
        _, image, images = torch.unique(self.image_keys, return_inverse=True, return_counts=True)
        _, text, texts = torch.unique(self.text_keys, return_inverse=True, return_counts=True)
        if len(images) == len(texts) == len(image):  # the host waits for the device
            return torch.ones_like(image)
        both = image * len(texts) + text
        _, pair, pairs = torch.unique(both, return_inverse=True, return_counts=True)
        alike: Tensor = images[image] + texts[text] - pairs[pair]
        return alike

    @cached_property
    def _members(self) -> Int[Tensor, " members"]:
        """The pairs that have a duplicate; none where duplicates do not matter."""
        if self.duplicates == "ignore":
            return self.image_keys.new_empty(0, dtype=torch.long)
        return (self._alike > 1).nonzero()[:, 0]

    def _duplicates(
        self, rows: range, *, with_alone: bool
    ) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
        """List the duplicates of some rows, each row's own column among them.

        Args:
            rows: of the batch.
            with_alone: also the own column of rows that have no duplicate.
        """
        members = self._members
        own = members[(members >= rows.start) & (members < rows.stop)]
        same = self.image_keys[own][:, None] == self.image_keys[members]
        same |= self.text_keys[own][:, None] == self.text_keys[members]
        row, column = same.nonzero(as_tuple=True)
        row, column = own[row], members[column]
        if with_alone:
            alone = (self._alike[rows.start : rows.stop] == 1).nonzero()[:, 0] + rows.start
            row, column = torch.cat([row, alone]), torch.cat([column, alone])
        return row - rows.start, column
