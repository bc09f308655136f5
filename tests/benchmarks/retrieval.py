"""Retrieval both ways, from features at hand to recall at 1, 5 and 10.

5,000 images with five captions each, as CLIP_benchmark evaluates them, whose model here only looks
features up; and 5,000 with one each, which is all that open_clip's metrics know of. clipkit also
finds rows of equal content, the ranks, and bootstrap intervals.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_numbers
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.peers import clip_benchmark
from tests.benchmarks.worker import Work

DIM, KS, BATCH = 512, (1, 5, 10), 64


def run(bench: Bench) -> None:
    """Race."""
    images = bench.pick(1000, 5000)
    for captions in bench.pick((1,), (5, 1)):
        given = {"images": images, "captions": captions}
        who = {
            "CLIP_benchmark": "by_clip_benchmark",
            **({"open_clip": "by_open_clip"} if captions == 1 else {}),
            "clipkit": "by_clipkit",
        }
        bench.race(
            f"retrieval evaluation, {images:,} images x {images * captions:,} captions",
            [
                Contender(name, f"retrieval:{one}", given, imports=libraries.IMPORTS[name])
                for name, one in who.items()
            ],
            amount=images * captions,
            unit="captions",
            compare=same_numbers(1e-3),
            rounds=bench.pick(1, 3 if captions > 1 else 5, 5),
        )


def features(images: int, captions: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return unit features of images, and of their captions, image by image."""
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((images, DIM), dtype=np.float32)
    noise = rng.standard_normal((images * captions, DIM), dtype=np.float32)
    texts = pictures.repeat(captions, 0) + 8 * noise
    return unit(pictures), unit(texts)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    made: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def by_clipkit(images: int, captions: int) -> Work:
    """`Retrieval`, its encoder giving the features."""
    import torch

    from clipkit.data import Dataset
    from clipkit.evaluate import Retrieval
    from clipkit.types import Sample
    from tests.evaluate.fixed import Fixed

    encoder = Fixed(*map(torch.from_numpy, features(images, captions)))
    rows = [
        Sample(str(at), str(at).encode(), tuple(f"{at} {one}" for one in range(captions)))
        for at in range(images)
    ]

    def go() -> dict[str, float]:
        evaluate = Retrieval(data=Dataset("features", rows), ks=KS)
        found = evaluate(None, encoder)  # type: ignore[arg-type]
        ways = ("text_to_image", "image_to_text")
        return {f"{way} {k}": found[f"{way}_r{k}"] for way in ways for k in KS}

    return Work(go, flops=2.0 * images * images * captions * DIM)


def by_clip_benchmark(images: int, captions: int) -> Work:
    """Its `evaluate`."""
    import torch

    module = clip_benchmark("zeroshot_retrieval")
    pictures, texts = map(torch.from_numpy, features(images, captions))

    class Model:
        def encode_image(self, rows: torch.Tensor) -> torch.Tensor:
            return pictures[rows]

        def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
            return texts[rows]

    def batches() -> Iterable[tuple[torch.Tensor, list[list[int]]]]:
        for start in range(0, images, BATCH):
            rows = range(start, min(start + BATCH, images))
            told = [list(range(at * captions, (at + 1) * captions)) for at in rows]
            yield torch.tensor(list(rows)), told

    def go() -> dict[str, float]:
        found = module.evaluate(
            Model(), batches(), torch.tensor, "cpu", amp=False, recall_k_list=list(KS)
        )
        ways = {"text_to_image": "image", "image_to_text": "text"}
        return {
            f"{way} {k}": found[f"{theirs}_retrieval_recall@{k}"]
            for way, theirs in ways.items()
            for k in KS
        }

    return Work(go)


def by_open_clip(images: int, captions: int) -> Work:
    """`get_clip_metrics` of its training."""
    import torch
    from open_clip_train.train import get_clip_metrics  # type: ignore[import-untyped]

    pictures, texts = map(torch.from_numpy, features(images, captions))

    def go() -> dict[str, Any]:
        found = get_clip_metrics(pictures, texts, 1.0)
        ways = ("text_to_image", "image_to_text")
        return {f"{way} {k}": found[f"{way}_R@{k}"] for way in ways for k in KS}

    return Work(go)
