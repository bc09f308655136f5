"""A classifier's head from class names and prompts: clipkit beside open_clip, one model, one work.

    python -m tests.benchmarks.zero_shot_head [--names 60] [--repeats 3] [--whole]

ViT-B/32 with random weights in float32; ImageNet's class names, evenly picked, in the 80 prompts of
the CLIP paper. Both heads are compared before time is: they must be equal to 1e-5. With `--whole`
clipkit also makes the head of all 1,000 names, and then reads it from its cache.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import open_clip
import torch
from torch import Tensor

from clipkit.classify.head import class_features, kept_class_features
from clipkit.encode import encode_texts
from clipkit.imagenet import imagenet_class_names, imagenet_templates
from clipkit.models import load
from clipkit.models.states import open_clip_state

ARCHITECTURE = "ViT-B-32"
TOLERANCE = 1e-5


def main() -> None:
    """Make the heads in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    model = load(f"open_clip:{ARCHITECTURE}@random")
    peer = open_clip.create_model(ARCHITECTURE, force_custom_text=True).eval()
    peer.load_state_dict(open_clip_state(model))
    tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
    every = imagenet_class_names()
    names = list(every[:: max(1, len(every) // options.names)][: options.names])
    templates = list(imagenet_templates())
    jobs: dict[str, Callable[[], Tensor]] = {
        "clipkit": lambda: class_features(
            [(name,) for name in names], templates, lambda texts: encode_texts(model, texts)
        ),
        "open_clip": lambda: (
            open_clip.build_zero_shot_classifier(peer, tokenizer, names, templates).T
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.repeats):
        made = {}
        for name, job in jobs.items():
            start = time.perf_counter()
            made[name] = job()
            seconds[name].append(time.perf_counter() - start)
        difference = float((made["clipkit"] - made["open_clip"]).abs().max())
        if difference > TOLERANCE:
            raise SystemExit(f"the work is not equal: heads differ by {difference:.1e}")
        sys.stdout.write(
            f"{len(names)} names x {len(templates)}: clipkit {seconds['clipkit'][-1]:.1f} s,"
            f" open_clip {seconds['open_clip'][-1]:.1f} s, largest difference {difference:.0e}\n"
        )
        sys.stdout.flush()
    mine, theirs = (statistics.median(seconds[name]) for name in jobs)
    sys.stdout.write(f"ratio of medians: {theirs / mine:.2f}\n")
    if options.whole:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CLIPKIT_CACHE"] = folder
            for what in ("encoded", "read from the cache"):
                start = time.perf_counter()
                kept_class_features(model, [(name,) for name in every], templates)
                took = time.perf_counter() - start
                sys.stdout.write(f"all {len(every)} names, {what}: {took:.1f} s\n")
                sys.stdout.flush()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
