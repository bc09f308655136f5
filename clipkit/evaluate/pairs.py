"""Which images and captions of a data set belong together, by content."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from clipkit.data.dataset import Dataset, caption_key


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The captions of the images that could be read.

    Attributes:
        captions: all of them, in order of the images.
        image_of: the image that each is written for, as a place among the images read.
        image_keys: of each image, equal for pictures that are the same byte for byte.
        caption_keys: of each caption, equal for those that say the same.
    """

    captions: list[str]
    image_of: Int[Tensor, " captions"]
    image_keys: Int[Tensor, " images"]
    caption_keys: Int[Tensor, " captions"]

    @classmethod
    def of(cls, data: Dataset, rows: Sequence[int]) -> "Pairs":
        """Collect them.

        Args:
            data: whose captions they are.
            rows: of the images that could be read, in the order of their features.
        """
        captions = [(at, text) for at, row in enumerate(rows) for text in data[row].captions]
        texts = [text for _, text in captions]
        written_for = torch.tensor([at for at, _ in captions], dtype=torch.long)
        keys = [caption_key(text) for text in texts]
        return cls(texts, written_for, image_numbers(data, rows), _numbered(keys))

    def matches(self) -> Int[Tensor, "pairs 2"]:
        """Return caption and image of all that belong together, each pair once.

        An image belongs to a caption that it has, and so does every copy of that image; and to a
        caption that says the same as one that it has.
        """
        together = self.keys_together()
        captions, first_caption, caption_counts = _groups(self.caption_keys)
        images, first_image, image_counts = _groups(self.image_keys)
        text, picture = together.unbind(1)
        sizes = caption_counts[text] * image_counts[picture]
        number = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        text, picture = text.repeat_interleave(sizes), picture.repeat_interleave(sizes)
        copies = image_counts[picture]
        return torch.stack(
            [
                captions[first_caption[text] + number // copies],
                images[first_image[picture] + number % copies],
            ],
            dim=1,
        )

    def keys_together(self) -> Int[Tensor, "pairs 2"]:
        """Return the keys of captions and images that belong together, each pair once."""
        pairs = torch.stack([self.caption_keys, self.image_keys[self.image_of]], dim=1)
        together: Tensor = pairs.unique(dim=0)
        return together


def image_numbers(data: Dataset, rows: Sequence[int]) -> Int[Tensor, " images"]:
    """Return a number for each row, from 0, equal where the images' bytes are; none if no image."""
    keys = data.image_keys()
    return _numbered([~row if data[row].image is None else keys[row] for row in rows])


def first_of_each(keys: Int[Tensor, " rows"]) -> Int[Tensor, " kinds"]:
    """Return the first row of each key, in order of the keys, which count from 0."""
    first = torch.full((int(keys.max()) + 1,), len(keys), dtype=torch.long)
    return first.scatter_reduce(0, keys, torch.arange(len(keys)), "amin")


def _numbered(values: Sequence[object]) -> Int[Tensor, " rows"]:
    """Number values in order of their first occurrence."""
    numbers: dict[object, int] = {}
    return torch.tensor(
        [numbers.setdefault(value, len(numbers)) for value in values], dtype=torch.long
    )


def _groups(keys: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows by ascending key, and where each key begins among them and how often it is.

    Args:
        keys: from 0 without gaps.
    """
    counts = torch.bincount(keys)
    return keys.argsort(stable=True), counts.cumsum(0) - counts, counts
