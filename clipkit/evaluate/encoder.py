"""Where an evaluator gets its features from: the model itself, or a cache that training keeps."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clipkit.data.dataset import Dataset
from clipkit.data.rejects import Rejects
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import PartProgress, Progress, Reject

KEEP = 3
"""Data sets whose features are kept: a linear probe has that many."""


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
    """Encodes with the model at hand.

    Args:
        max_rejected: the largest share of a data set's rows that may be unusable.
        keep: keep the features of the last few data sets, for several evaluators of one model that
            does not change meanwhile.
        report: told what is encoded, how much of it is done, and how much there is.

    Attributes:
        rejects: rows that could not be used, over all data sets, by data set and id.
    """

    def __init__(
        self,
        *,
        max_rejected: float = 0.01,
        keep: bool = False,
        report: PartProgress | None = None,
    ) -> None:
        """Start with no rejects."""
        self.max_rejected = max_rejected
        self.keep = keep
        self.report = report
        self.rejects: dict[str, Reject] = {}
        self._kept: list[tuple[Dataset, DualEncoder, Tensor, list[int]]] = []

    def images(
        self, model: DualEncoder, data: Dataset
    ) -> tuple[Float[Tensor, "images dim"], list[int]]:
        """Return the features of the images that can be read, and the rows they belong to.

        Raises:
            DataError: when none can be read.
            RejectedError: when more than `max_rejected` of the rows cannot be used.
        """
        for at, (kept_data, kept_model, features, kept) in enumerate(self._kept):
            if kept_data is data and kept_model is model:
                self._kept.append(self._kept.pop(at))
                return features, kept
        features, kept, errors = encode_images(
            model, (sample.image for sample in data), progress=self._progress(data)
        )
        if not kept:
            raise DataError(
                f"{data.name}: none of its {len(data)} rows has an image that can be read"
            )
        found = [Reject(data[row].id, reason, data.name) for row, reason in errors]
        self.rejects.update({f"{data.name}/{reject.id}": reject for reject in found})
        check_rejects(data, found, self.max_rejected)
        if self.keep:
            self._kept = [*self._kept[1 - KEEP :], (data, model, features, kept)]
        return features, kept

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return the features of texts."""
        return encode_texts(model, texts)

    def _progress(self, data: Dataset) -> Progress | None:
        if self.report is None:
            return None
        report = self.report
        return lambda done, _: report(f"images of {data.name}", done, len(data))


def check_rejects(data: Dataset, found: Sequence[Reject], max_rejected: float) -> None:
    """Stop when too many rows of a data set cannot be used.

    Args:
        data: with what was rejected when it was read.
        found: what was rejected since.
        max_rejected: the largest share of all its rows.

    Raises:
        RejectedError: when there are more.
    """
    rejects = Rejects(max_rejected, [*data.rejects, *found])
    rejects.check(len(data) + len(data.rejects), final=True)
