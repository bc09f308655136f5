"""From captions of 10 to 20 words to embeddings, each library by its own tokenizer and means.

Two text towers of CLIP with random weights, the same for all, and all-MiniLM-L6-v2, which is the
starter's. transformers and sentence-transformers have no MobileCLIP.
"""

from typing import TYPE_CHECKING

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_direction
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import make_captions
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    import numpy as np

BATCH = 256
AT_LEAST = 0.999


def run(bench: Bench) -> None:
    """Race, model by model."""
    for architecture in bench.pick(("ViT-B-32",), ("ViT-B-32", "MobileCLIP-S1")):
        for device in bench.devices:
            count = bench.pick(32, 64, 1000) if device == "cpu" else bench.pick(512, 4096)
            bench.race(
                f"encode captions, {architecture}{libraries.on(device)}",
                libraries.contenders(bench, "encode_captions", architecture, device, count=count),
                amount=count,
                unit="captions",
                compare=same_direction(AT_LEAST),
                rounds=bench.pick(1, 3, 5),
            )
    if bench.scale == "quick":
        return
    count = bench.pick(500, 500, 1000)
    bench.race(
        "encode captions, all-MiniLM-L6-v2",
        [
            Contender(
                who,
                f"encode_captions:minilm_by_{by}",
                {"count": count},
                imports=libraries.IMPORTS[who],
            )
            for who, by in (("sentence-transformers", "peer"), ("clipkit", "clipkit"))
        ],
        amount=count,
        unit="captions",
        compare=same_direction(0.9999),
        rounds=5,
    )


def by_clipkit(count: int, **which: str) -> Work:
    """`encode_texts`, as classification, export and evaluation do."""
    from clipkit.encode import encode_texts

    model, texts = libraries.clipkit(**which), make_captions(count)
    flops = libraries.text_flops(model, texts)
    return Work(lambda: encode_texts(model, texts).numpy(), flops=flops)


def by_open_clip(count: int, **which: str) -> Work:
    """Its tokenizer and `encode_text`, in batches."""
    import torch

    model, _, tokenizer = libraries.open_clip(**which)
    texts = make_captions(count)

    def go() -> "np.ndarray":
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                tokens = tokenizer(texts[start : start + BATCH]).to(which["device"])
                rows.append(model.encode_text(tokens, normalize=True).cpu())
        made: np.ndarray = torch.cat(rows).float().numpy()
        return made

    return Work(go)


def by_transformers(count: int, **which: str) -> Work:
    """Its tokenizer and `get_text_features`, in batches."""
    import torch

    model, processor = libraries.transformers(**which)
    texts = make_captions(count)

    def go() -> "np.ndarray":
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                inputs = processor(
                    text=texts[start : start + BATCH],
                    return_tensors="pt",
                    padding=True,
                    truncation=True,
                )
                found = model.get_text_features(**inputs.to(model.device))
                rows.append(getattr(found, "pooler_output", found).cpu())
        made: np.ndarray = torch.cat(rows).numpy()
        return made

    return Work(go)


def by_sentence_transformers(count: int, **which: str) -> Work:
    """Its `encode`."""
    return encoded_by(libraries.sentence_transformers(**which), make_captions(count))


def encoded_by(model: "object", texts: list[str]) -> Work:
    """Return the work of `SentenceTransformer.encode`."""

    def go() -> "np.ndarray":
        made: np.ndarray = model.encode(  # type: ignore[attr-defined]
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return made

    return Work(go)


def minilm_by_peer(count: int) -> Work:
    """all-MiniLM-L6-v2 as sentence-transformers puts it together."""
    from sentence_transformers import SentenceTransformer, models

    from clipkit.models.starter import TEXT_WEIGHTS

    word = models.Transformer(str(TEXT_WEIGHTS.locate().parent))
    pooled = models.Pooling(384, pooling_mode="mean")
    return encoded_by(
        SentenceTransformer(modules=[word, pooled], device="cpu"), make_captions(count)
    )


def minilm_by_clipkit(count: int) -> Work:
    """The starter's text tower."""
    import torch

    from clipkit.encode import encode_texts
    from clipkit.models import load

    model, texts = load("starter"), make_captions(count)

    def go() -> "np.ndarray":
        with torch.inference_mode():
            return encode_texts(model, texts, encode=model.text_tower).numpy()

    return Work(go)
