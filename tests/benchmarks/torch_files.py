"""Picture files as people feed them to open_clip: a Dataset and a DataLoader of two workers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

WORKERS = 2


class Pictures(Dataset[torch.Tensor]):
    """Files, read and transformed as open_clip does."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], torch.Tensor]) -> None:
        """Keep them."""
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.files)

    def __getitem__(self, at: int) -> torch.Tensor:
        """Return one picture."""
        with Image.open(self.files[at]) as image:
            return self.transform(image)


def loader(
    files: Sequence[Path], transform: Callable[[Any], torch.Tensor], batch: int
) -> DataLoader[torch.Tensor]:
    """Return batches of pictures, in order."""
    return DataLoader(Pictures(files, transform), batch_size=batch, num_workers=WORKERS)
