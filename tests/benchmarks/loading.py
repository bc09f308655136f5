"""Images a second that a training loop is fed, from three kinds of source.

A csv that lists JPEGs, tar shards, and a parquet file as `datasets` writes it. Each loader gives
one epoch: batches of 64 images at 224 pixels, scaled and cropped as for evaluation, as normalised
float tensors, with the tokens of their captions, by two workers. All but those of shards shuffle;
open_clip's of shards is its loader for evaluation, since that for training fails with webdataset
1.0 (KeyError: 'fname'). Tokens are compared, and pixels of the same caption, averaged over squares.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_numbers
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import make_captions, photo_folder, photos
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    from torch import Tensor

BATCH, WORKERS, SHARD_ROWS, SIDE = 64, 2, 64, 16
SOURCES = {
    "csv": ("open_clip",),
    "shards": ("open_clip", "webdataset"),
    "parquet": ("datasets",),
}

Epoch = Callable[[], "Iterable[tuple[Tensor, Tensor]]"]


def run(bench: Bench) -> None:
    """Race, source by source."""
    count = bench.pick(256, 384, 2048)
    files = bench.prepare("loading:write_sources", photos_of=photo_folder(bench, count))
    for source in bench.pick(("csv",), tuple(SOURCES)):
        given = {"source": source, "files": str(files), "count": count}
        bench.race(
            f"read and decode, {source}",
            [
                Contender(who, f"loading:by_{who}", given, imports=libraries.IMPORTS[who])
                for who in (*SOURCES[source], "clipkit")
            ],
            amount=count,
            unit="images",
            compare=same_numbers(0.1),
            rounds=bench.pick(1, 5),
        )


def write_sources(folder: str, photos_of: str) -> Work:
    """Write a csv, shards and a parquet file of a folder's pictures."""

    def go() -> None:
        import webdataset
        from datasets import Dataset, Image

        files = photos(photos_of)
        captions = make_captions(len(files))
        lines = [f"{path},{caption}" for path, caption in zip(files, captions, strict=True)]
        (Path(folder) / "images.csv").write_text("\n".join(["filepath,title", *lines]) + "\n")
        (Path(folder) / "shards").mkdir()
        pattern = f"{folder}/shards/%05d.tar"
        with webdataset.ShardWriter(pattern, maxcount=SHARD_ROWS, verbose=0) as writer:
            for number, (path, caption) in enumerate(zip(files, captions, strict=True)):
                row = {"__key__": f"{number:08d}", "jpg": path.read_bytes(), "txt": caption}
                writer.write(row)
        rows = [{"bytes": path.read_bytes(), "path": None} for path in files]
        table = Dataset.from_dict({"image": rows, "caption": captions})
        table.cast_column("image", Image()).to_parquet(f"{folder}/images.parquet")

    return Work(go)


def fed(epoch: Epoch, count: int) -> Work:
    """Return the work of going through one epoch."""
    from torch.nn.functional import avg_pool2d

    def go() -> dict[str, np.ndarray]:
        tokens, squares = [], []
        for pixels, told in epoch():
            tokens.append(told.numpy())
            squares.append(avg_pool2d(pixels, pixels.shape[-1] // SIDE).numpy())
        all_tokens, all_squares = np.concatenate(tokens), np.concatenate(squares)
        if len(all_tokens) != count or all_squares.dtype != np.float32:
            raise ValueError(f"{len(all_tokens)} rows of {all_squares.dtype}, not {count}")
        order = np.lexsort(all_tokens.T)
        return {"tokens": all_tokens[order], "pixels": all_squares[order]}

    return Work(go)


def preprocessing() -> Any:
    """Return CLIP's."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    from clipkit.types import Preprocessing

    return Preprocessing(224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def transform() -> Any:
    """Return open_clip's transform for evaluation."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    own = preprocessing()
    return image_transform_v2(
        PreprocessCfg(size=own.size, mean=own.mean, std=own.std), is_train=False
    )


def by_clipkit(source: str, files: str, count: int) -> Work:
    """Its `Loader`."""
    from open_clip import SimpleTokenizer

    from clipkit.data import load_data
    from clipkit.data.loader import Loader
    from clipkit.data.preprocess import normalize

    tokenizer, settings = SimpleTokenizer(), preprocessing()
    name = {"csv": "images.csv", "shards": "shards", "parquet": "images.parquet"}[source]
    samples = load_data(f"{files}/{name}").samples
    loader = Loader(samples, settings, batch_size=BATCH, seed=0, workers=WORKERS)

    def epoch() -> "Iterator[tuple[Tensor, Tensor]]":
        for batch in loader.epoch():
            captions = [told[0] for told in batch.captions]
            yield normalize(batch.pixels, settings), tokenizer(captions)

    return fed(epoch, count)


def by_open_clip(source: str, files: str, count: int) -> Work:
    """Its loaders, as it sets them up itself."""
    from open_clip import SimpleTokenizer
    from open_clip_train.data import (  # type: ignore[import-untyped]
        get_csv_dataset,
        get_wds_dataset,
    )

    given = {"batch_size": BATCH, "workers": WORKERS, "distributed": False}
    named = {"tokenizer": SimpleTokenizer()}
    if source == "csv":
        table = {"csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": ","}
        args = SimpleNamespace(train_data=f"{files}/images.csv", **given, **table)
        made = get_csv_dataset(args, transform(), is_train=True, **named)
    else:
        last = len(list(Path(files, "shards").iterdir())) - 1
        shards = f"{files}/shards/{{00000..{last:05d}}}.tar"
        args = SimpleNamespace(val_data=shards, val_num_samples=count, **given)
        made = get_wds_dataset(args, transform(), is_train=False, **named)
    return fed(lambda: made.dataloader, count)


def by_webdataset(source: str, files: str, count: int) -> Work:
    """Its pipeline, as its own documentation has it."""
    import webdataset
    from open_clip import SimpleTokenizer
    from torch.utils.data import DataLoader

    tokenizer = SimpleTokenizer()
    shards = [str(path) for path in sorted(Path(files, "shards").iterdir())]
    data = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg", "txt")
        .map_tuple(transform(), lambda text: tokenizer(text)[0])
    )
    return fed(lambda: DataLoader(data, batch_size=BATCH, num_workers=WORKERS), count)


def by_datasets(source: str, files: str, count: int) -> Work:
    """A parquet file of `datasets`, transformed as it is read, in a DataLoader."""
    from datasets import load_dataset
    from open_clip import SimpleTokenizer
    from torch.utils.data import DataLoader

    tokenizer, prepare = SimpleTokenizer(), transform()

    def ready(rows: dict[str, Any]) -> dict[str, Any]:
        images = [prepare(image) for image in rows["image"]]
        return {"image": images, "tokens": list(tokenizer(rows["caption"]))}

    table = load_dataset(
        "parquet", data_files=f"{files}/images.parquet", split="train", cache_dir=f"{files}/cache"
    ).with_transform(ready)

    def epoch() -> "Iterator[tuple[Tensor, Tensor]]":
        batches = DataLoader(table, batch_size=BATCH, num_workers=WORKERS, shuffle=True)
        for batch in batches:
            yield batch["image"], batch["tokens"]

    return fed(epoch, count)
