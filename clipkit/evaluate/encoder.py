"""Where an evaluator gets its features from: the model itself, or a cache that training keeps."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import DataError
from clipkit.models.dual_encoder import DualEncoder


@runtime_checkable
class Encoder(Protocol):
    """Encodes what an evaluator needs."""

    def images(
        self, model: DualEncoder, data: Dataset
    ) -> tuple[Float[Tensor, "images dim"], list[int]]:
        """Return the features of the images that can be read, and the rows they belong to."""

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return the features of texts."""


class DirectEncoder:
    """Encodes with the model at hand, and keeps nothing."""

    def images(
        self, model: DualEncoder, data: Dataset
    ) -> tuple[Float[Tensor, "images dim"], list[int]]:
        """Return the features of the images that can be read, and the rows they belong to.

        Raises:
            DataError: when none can be read.
        """
        rows = [row for row, sample in enumerate(data.samples) if sample.image is not None]
        sources = (image for row in rows if (image := data[row].image) is not None)
        features, kept, _ = encode_images(model, sources)
        if not kept:
            raise DataError(
                f"{data.name}: none of its {len(data)} rows has an image that can be read"
            )
        return features, [rows[index] for index in kept]

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return the features of texts."""
        return encode_texts(model, texts)
