"""Embeddings of a folder of JPEGs, end to end: from the first look at it to the last byte written.

ViT-B/32 with the same random weights everywhere. clipkit writes a store; open_clip is the loop that
people write: its model, its transform, a DataLoader of two workers, batches of 64, one `np.save`;
sentence-transformers is its `encode`, 64 pictures at a time; clip-retrieval is its own
`clip_inference` in an environment of its own, with two workers and batches of 64. Libraries and
weights are loaded before.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_direction
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import photo_folder, photos
from tests.benchmarks.peers import CLIP_RETRIEVAL
from tests.benchmarks.worker import Work

ARCHITECTURE = "ViT-B-32"
BATCH, WARM = 64, 8


def run(bench: Bench) -> None:
    """Race."""
    for device in bench.devices:
        count = bench.pick(32, 64, 2000) if device == "cpu" else bench.pick(512, 4096)
        given = {"source": photo_folder(bench, count), "few": photo_folder(bench, WARM)}
        made = libraries.contenders(
            bench,
            "export",
            ARCHITECTURE,
            device,
            ("open_clip", "sentence-transformers", "clipkit"),
            **given,
        )
        retrieval = Contender(
            "clip-retrieval",
            "export:by_clip_retrieval",
            made[0].given,
            python=CLIP_RETRIEVAL,
            device=device,
        )
        peers = [retrieval] * (bench.scale != "quick")  # it takes half a minute
        places = [
            Contender(
                one.who,
                one.function,
                {**one.given, "out": str(bench.folder / f"out{at}{device}")},
                imports=one.imports,
                precision=one.precision,
                python=one.python,
                device=device,
            )
            for at, one in enumerate([made[0], *peers, *made[1:]])
        ]
        bench.race(
            f"export {count} JPEGs{libraries.on(device)}",
            places,
            amount=count,
            unit="images",
            compare=same_direction(0.999),
            rounds=bench.pick(1, 3),
            warm=False,
        )


def exported(
    write: Callable[[str], None],
    read: Callable[[], np.ndarray],
    source: str,
    few: str,
    out: str,
    flops: float | None = None,
    *,
    warm: bool = True,
) -> Work:
    """Return the work of exporting a folder.

    Args:
        write: exports a folder to `out`.
        read: what `write` wrote.
        source: the folder.
        few: another, to warm up with.
        out: what is removed before each time.
        flops: that it needs.
        warm: whether to export `few` before.
    """

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        Path(out).mkdir(parents=True)

    clear()
    if warm:
        write(few)

    def go() -> np.ndarray:
        write(source)
        return read()

    return Work(go, before=clear, flops=flops)


def by_clipkit(source: str, few: str, out: str, **which: str) -> Work:
    """`clipkit.embed`."""
    import clipkit

    model = libraries.clipkit(**which)
    flops = libraries.image_flops(model) * len(photos(source))

    def write(folder: str) -> None:
        clipkit.embed(model, folder, f"{out}/store")

    return exported(
        write, lambda: clipkit.EmbeddingStore(f"{out}/store").embeddings(), source, few, out, flops
    )


def by_open_clip(source: str, few: str, out: str, **which: str) -> Work:
    """The loop that people write."""
    import torch

    from tests.benchmarks.torch_files import loader

    model, transform, _ = libraries.open_clip(**which)
    place = next(model.parameters())

    def write(folder: str) -> None:
        rows = []
        with torch.inference_mode():
            for batch in loader(photos(folder), transform, BATCH):
                rows.append(model.encode_image(batch.to(place), normalize=True).float().cpu())
        np.save(f"{out}/rows.npy", torch.cat(rows).numpy())

    return exported(write, lambda: np.load(f"{out}/rows.npy"), source, few, out)


def by_sentence_transformers(source: str, few: str, out: str, **which: str) -> Work:
    """Its `encode`, some files at a time."""
    from PIL import Image

    model = libraries.sentence_transformers(**which)

    def opened(files: list[Path]) -> list[Image.Image]:
        return [Image.open(path) for path in files]

    def write(folder: str) -> None:
        files, rows = photos(folder), []
        for start in range(0, len(files), BATCH):
            rows.append(
                model.encode(
                    opened(files[start : start + BATCH]),
                    batch_size=BATCH,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            )
        np.save(f"{out}/rows.npy", np.concatenate(rows))

    return exported(write, lambda: np.load(f"{out}/rows.npy"), source, few, out)


def by_clip_retrieval(source: str, few: str, out: str, **which: str) -> Work:
    """Its `clip_inference`; reading what it wrote is little."""
    from all_clip import load_clip  # type: ignore[import-not-found]
    from clip_retrieval.clip_inference import clip_inference  # type: ignore[import-not-found]

    name = f"open_clip:{which['architecture']}/{which['folder']}/open_clip.pt"
    for size in (BATCH, 1):  # as its worker and its mapper will ask for it
        load_clip(clip_model=name, use_jit=False, warmup_batch_size=size, clip_cache_path=None)

    def write(folder: str) -> None:
        clip_inference(
            input_dataset=folder,
            output_folder=f"{out}/store",
            enable_text=False,
            enable_metadata=False,
            clip_model=name,
            use_jit=False,
            num_prepro_workers=2,
            batch_size=BATCH,
            clip_cache_path=None,
        )

    def read() -> np.ndarray:
        files = sorted(Path(out).rglob("img_emb_*.npy"))
        return np.concatenate([np.load(file) for file in files]).astype(np.float32)

    # Its first time takes as long as the others, 22 to 25 s on two cores, most of it no encoding.
    return exported(write, read, source, few, out, warm=False)
