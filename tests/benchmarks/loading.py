"""Images a second that a training loop is fed: clipkit's Loader beside open_clip's loaders.

    python -m tests.benchmarks.loading FOLDER_OF_JPEGS [--workers 2] [--repeats 3]

The JPEGs are listed in a csv and packed into tar shards in a temporary folder. From each of the two
open_clip's own loader and clipkit's give one epoch after the other, in turn, with as many workers:
batches of 64 images at 224 pixels, scaled and cropped as for evaluation, as normalised float
tensors, with the tokens of their captions. A first epoch of each is not counted. All but
open_clip's of shards are shuffled; that one is its loader for evaluation, since open_clip 3.3's for
training fails with webdataset 1.0 (KeyError: 'fname').
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
import webdataset as wds
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip_train.data import (  # type: ignore[import-untyped]
    get_csv_dataset,
    get_wds_dataset,
)
from torch import Tensor

from clipkit.data import load_data
from clipkit.data.loader import Loader
from clipkit.data.preprocess import normalize
from clipkit.types import Preprocessing

BATCH = 64
SHARD_ROWS = 500
SETTINGS = Preprocessing(224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)

Epoch = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def write(images: list[Path], folder: Path) -> tuple[Path, Path]:
    """List the images in a csv and pack them into shards; return the csv and the shards' folder."""
    table, shards = folder / "images.csv", folder / "shards"
    shards.mkdir()
    captions = [f"a photo of {path.parent.name}" for path in images]
    rows = {"filepath": [str(path.resolve()) for path in images], "title": captions}
    pd.DataFrame(rows).to_csv(table, index=False)
    with wds.ShardWriter(str(shards / "%05d.tar"), maxcount=SHARD_ROWS, verbose=0) as writer:
        for number, (path, caption) in enumerate(zip(images, captions, strict=True)):
            writer.write({"__key__": f"{number:08d}", "jpg": path.read_bytes(), "txt": caption})
    return table, shards


def open_clip_epochs(table: Path, shards: Path, rows: int, workers: int) -> dict[str, Epoch]:
    """Return open_clip's two loaders, as it sets them up itself."""
    transform = image_transform_v2(
        PreprocessCfg(size=SETTINGS.size, mean=SETTINGS.mean, std=SETTINGS.std), is_train=False
    )
    given = {"batch_size": BATCH, "workers": workers, "distributed": False}
    csv = {"csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": ","}
    last = len(list(shards.iterdir())) - 1
    tar = {"val_data": f"{shards}/{{00000..{last:05d}}}.tar", "val_num_samples": rows}
    tokenizer = SimpleTokenizer()
    from_csv = get_csv_dataset(
        SimpleNamespace(train_data=str(table), **given, **csv),
        transform,
        is_train=True,
        tokenizer=tokenizer,
    )
    from_shards = get_wds_dataset(
        SimpleNamespace(**given, **tar), transform, is_train=False, tokenizer=tokenizer
    )
    return {
        "csv": lambda: iter(from_csv.dataloader),
        "shards": lambda: iter(from_shards.dataloader),
    }


def clipkit_epochs(table: Path, shards: Path, workers: int) -> dict[str, Epoch]:
    """Return clipkit's loader on the same two."""
    tokenizer = SimpleTokenizer()

    def epochs(source: Path) -> Epoch:
        samples = load_data(source).samples
        loader = Loader(samples, SETTINGS, batch_size=BATCH, seed=0, workers=workers)

        def epoch() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in loader.epoch():
                captions = [told[0] for told in batch.captions]
                yield normalize(batch.pixels, SETTINGS), tokenizer(captions)

        return epoch

    return {"csv": epochs(table), "shards": epochs(shards)}


def images_per_second(epoch: Epoch) -> float:
    """Go through one epoch."""
    start, images = time.perf_counter(), 0
    for pixels, tokens in epoch():
        assert pixels.dtype == torch.float32
        assert pixels.shape[1:] == (3, SETTINGS.size, SETTINGS.size)
        assert len(pixels) == len(tokens)
        images += len(pixels)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    images = sorted(
        path for path in given.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")
    )
    with tempfile.TemporaryDirectory() as folder:
        table, shards = write(images, Path(folder))
        peers = open_clip_epochs(table, shards, len(images), given.workers)
        mine = clipkit_epochs(table, shards, given.workers)
        jobs = {
            (kind, name): job
            for name, who in (("open_clip", peers), ("clipkit", mine))
            for kind, job in who.items()
        }
        found: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
        for repeat in range(given.repeats + 1):
            for key, job in jobs.items():
                speed = images_per_second(job)
                if repeat:
                    found[key].append(speed)
    sys.stdout.write(
        f"{len(images)} JPEGs, {given.workers} workers, medians of {given.repeats} epochs\n"
        "images/s   open_clip   clipkit   ratio   ratio of each epoch\n"
    )
    for kind in ("csv", "shards"):
        theirs, ours = found[kind, "open_clip"], found[kind, "clipkit"]
        ratios = " ".join(f"{b / a:.2f}" for a, b in zip(theirs, ours, strict=True))
        a, b = statistics.median(theirs), statistics.median(ours)
        sys.stdout.write(f"{kind:8} {a:11.0f} {b:9.0f} {b / a:7.2f}   {ratios}\n")


if __name__ == "__main__":
    main()
