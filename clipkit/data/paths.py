"""A list of image files as a data set."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from clipkit.data.dataset import Dataset
from clipkit.data.hashing import hash_strings
from clipkit.data.texts import readable
from clipkit.errors import DataError
from clipkit.types import Reject, Sample


class PathSamples(Sequence[Sample]):
    """Samples of image files, made when they are asked for; their ids are the paths as given.

    Args:
        paths: strings.
        chosen: which of them are the samples.
    """

    def __init__(self, paths: pa.Array, chosen: Int[np.ndarray, " samples"]) -> None:
        """Keep the paths, each as its bytes alone."""
        self._paths = paths
        self._chosen = chosen

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or the list of those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        path = self._paths[int(self._chosen[index])].as_py().decode(errors="surrogateescape")
        return Sample(readable(path), Path(path))


def list_paths(paths: Iterable[str | Path], name: str = "paths") -> Dataset:
    """Return image files as a data set, in their order; whether they are there is seen later.

    Args:
        paths: of images; a path that occurs again is a reject, and an empty one is left out.
        name: of the data set.

    Raises:
        DataError: there are none.
    """
    told = (str(path) for path in paths)
    encoded = pa.array((text.encode(errors="surrogateescape") for text in told if text),
                       pa.large_binary())  # fmt: skip
    if not len(encoded):
        raise DataError(f"{name} holds no path of an image")
    _, first = np.unique(_hashes(encoded), return_index=True)
    chosen = np.sort(first)
    again = np.setdiff1d(np.arange(len(encoded)), chosen)
    rejects = tuple(
        Reject(readable(encoded[int(at)].as_py().decode(errors="surrogateescape")),
               "path is listed twice", f"{name} line {at + 1}")
        for at in again
    )  # fmt: skip
    return Dataset(name, PathSamples(encoded, chosen), rejects=rejects)


def read_lines(file: Path) -> list[str]:
    """Return the paths that a text file names, one a line.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            return [line.rstrip("\r\n") for line in lines]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _hashes(encoded: pa.Array) -> np.ndarray:
    """Return 64 bits for each path; Arrow's bytes are hashed as the text they are laid out like."""
    offsets, content = encoded.buffers()[1], encoded.buffers()[2]
    return hash_strings(pa.LargeStringArray.from_buffers(len(encoded), offsets, content))
