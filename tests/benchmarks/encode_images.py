"""From decoded pictures to embeddings: each library by its own preprocessing and its own means.

The pictures are in memory, since decoding is a job of its own (`loading`). Random weights, the same
for all. transformers and sentence-transformers have no MobileCLIP.
"""

from typing import TYPE_CHECKING

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_direction
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import photo_folder, pictures
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    import numpy as np

BATCH = 64
AT_LEAST = 0.995
"""Cosine: bf16, and preprocessing that differs in the last bit, both turn an embedding a little."""


def run(bench: Bench) -> None:
    """Race, model by model."""
    for architecture in bench.pick(("ViT-B-32",), ("ViT-B-32", "MobileCLIP-S1")):
        for device in bench.devices:
            some = 16 if architecture.startswith("Mobile") else 32  # it takes three times as long
            count = bench.pick(16, some, 1000) if device == "cpu" else bench.pick(128, 1024)
            bench.race(
                f"encode images, {architecture}{libraries.on(device)}",
                libraries.contenders(
                    bench, "encode_images", architecture, device, photos=photo_folder(bench, count)
                ),
                amount=count,
                unit="images",
                compare=same_direction(AT_LEAST),
                rounds=bench.pick(1, 3),
            )


def by_clipkit(photos: str, **which: str) -> Work:
    """`encode_images`, as classification, export and evaluation do."""
    from clipkit.encode import encode_images

    model = libraries.clipkit(**which)
    images = list(pictures(photos))

    def go() -> "np.ndarray":
        features, rows, errors = encode_images(model, images)
        if errors or len(rows) != len(images):
            raise ValueError(f"{len(errors)} images were rejected")
        return features.numpy()

    return Work(go, flops=libraries.image_flops(model) * len(images))


def by_open_clip(photos: str, **which: str) -> Work:
    """Its transform and `encode_image`, in batches."""
    import torch

    model, transform, _ = libraries.open_clip(**which)
    place = next(model.parameters())
    images = list(pictures(photos))

    def go() -> "np.ndarray":
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.stack([transform(one) for one in images[start : start + BATCH]])
                rows.append(model.encode_image(batch.to(place), normalize=True).cpu())
        made: np.ndarray = torch.cat(rows).float().numpy()
        return made

    return Work(go)


def by_transformers(photos: str, **which: str) -> Work:
    """Its image processor and `get_image_features`, in batches."""
    import torch

    model, processor = libraries.transformers(**which)
    images = list(pictures(photos))

    def go() -> "np.ndarray":
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                inputs = processor(images=images[start : start + BATCH], return_tensors="pt")
                found = model.get_image_features(**inputs.to(model.device))
                rows.append(getattr(found, "pooler_output", found).cpu())
        made: np.ndarray = torch.cat(rows).numpy()
        return made

    return Work(go)


def by_sentence_transformers(photos: str, **which: str) -> Work:
    """Its `encode`."""
    model = libraries.sentence_transformers(**which)
    images = list(pictures(photos))

    def go() -> "np.ndarray":
        made: np.ndarray = model.encode(
            images, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return made

    return Work(go)
