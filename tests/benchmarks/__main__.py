"""`make bench`: clipkit beside a peer on the same work, in one run, as a ratio of medians."""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer, models

from clipkit.data import load_data
from clipkit.encode import encode_texts
from clipkit.models import load
from clipkit.models.starter import TEXT_WEIGHTS

REPEATS = 5
TEXTS = 1_000


def median_seconds(jobs: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Run the jobs in turn, several times; return the median of each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(REPEATS):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def encode_captions() -> None:
    """Encode captions with all-MiniLM-L6-v2: clipkit and sentence-transformers."""
    texts = [caption for sample in load_data("openmoji") for caption in sample.captions][:TEXTS]
    model = load("starter")
    folder = str(TEXT_WEIGHTS.locate().parent)
    word = models.Transformer(folder)
    peer = SentenceTransformer(
        modules=[word, models.Pooling(384, pooling_mode="mean")], device="cpu"
    )
    jobs: dict[str, Callable[[], torch.Tensor]] = {
        "clipkit": lambda: encode_texts(model, texts, encode=model.text_tower),
        "sentence-transformers": lambda: peer.encode(
            texts, batch_size=256, convert_to_tensor=True, show_progress_bar=False
        ),
    }
    mine, theirs = (job() for job in jobs.values())
    cosine = torch.nn.functional.cosine_similarity(mine, theirs)
    if cosine.min() < 0.9999:
        raise SystemExit(f"the work is not equal: cosine {cosine.min():.5f}")
    found = median_seconds(jobs)
    for name, value in found.items():
        sys.stdout.write(f"encode {TEXTS} captions, {name}: {TEXTS / value:.0f}/s\n")
    sys.stdout.write(f"ratio: {found['sentence-transformers'] / found['clipkit']:.2f}\n")


encode_captions()
