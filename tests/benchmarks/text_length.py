"""Texts cut to the longest of their batch, beside the same texts padded to the model's context.

    python -m tests.benchmarks.text_length [MODEL ...]

The features are equal, which is checked; what is measured is encoding alone, on two lengths of
captions: names of a few words and sentences of some twenty.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from clipkit.encode import encode_texts
from clipkit.models import load

MODELS = ("open_clip:ViT-B-32@random", "starter")
TEXTS, REPEATS = 128, 3
CAPTIONS = {
    "names": "a photo of a {} cat",
    "sentences": "a {} cat sits on the wall of an old house and looks at the people who walk by "
    "in the rain with their umbrellas",
}
WORDS = ("red", "small", "tabby", "very old", "black and white", "sleeping")


def measure(name: str) -> None:
    """Encode with and without the padding, in turn."""
    model = load(name)
    tower = model.text_tower
    if not getattr(tower, "shortens", True):
        sys.stdout.write(f"{name}: padding counts for it, so its texts are not cut\n")
        return
    for kind, template in CAPTIONS.items():
        texts = [template.format(WORDS[at % len(WORDS)]) for at in range(TEXTS)]
        seconds: dict[bool, list[float]] = {True: [], False: []}
        features = {}
        for _ in range(REPEATS):
            for cut in (True, False):
                tower.shortens = cut  # type: ignore[assignment]
                start = time.perf_counter()
                features[cut] = encode_texts(model, texts)
                seconds[cut].append(time.perf_counter() - start)
        tower.shortens = True  # type: ignore[assignment]
        difference = float((features[True] - features[False]).abs().max())
        if difference > 1e-5:
            raise SystemExit(f"the work is not equal: features differ by {difference:.1e}")
        cut_, full = (statistics.median(seconds[cut]) for cut in (True, False))
        sys.stdout.write(
            f"{name}, {kind}: {TEXTS / cut_:.0f} texts/s cut, {TEXTS / full:.0f} padded to"
            f" {model.context_length}: ratio {full / cut_:.1f}, largest difference"
            f" {difference:.0e}\n"
        )


torch.manual_seed(0)
for chosen in sys.argv[1:] or MODELS:
    measure(chosen)
