"""What all jobs work on, made from seeds: pictures like photos, captions, models of random weights.

Functions named `write_…` are for `Bench.prepare`: each runs in a process of its own.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from tests.benchmarks.harness import Bench
from tests.benchmarks.worker import Work

WIDTH, HEIGHT, QUALITY = 640, 480, 90
DRAWN = 32
"""Pictures; the others are these, moved."""
WORDS = (
    "a photo of two old brown dogs that run after the yellow ball on a wet beach in front of some"
    " small boats while people with umbrellas look at them from the wall near the red house"
).split()
STARTER = "starter"
CLIPKIT = ("clipkit.models", "open_clip")
"""What it takes to load a model of open_clip."""


def photo(rng: np.random.Generator) -> Image.Image:
    """Draw a picture whose detail falls off with its frequency, as in photos, with edges and grain.

    Args:
        rng: where chance comes from.
    """
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(2, 9):
        rows, columns = 3 * 2**octave // 4, 2**octave
        coarse = rng.integers(0, 256, (max(2, rows), columns, 3), dtype=np.uint8)
        wide = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels += (np.asarray(wide, np.float32) - 128) * 0.72 ** (octave - 1)
    for _ in range(6):  # things with edges
        y, x = rng.integers(0, HEIGHT - 80), rng.integers(0, WIDTH - 80)
        height, width = rng.integers(40, 240, 2)
        pixels[y : y + height, x : x + width] += rng.integers(-70, 70, 3)
    pixels += rng.normal(0, 4, pixels.shape[:2])[..., None]
    sane = Image.fromarray(np.clip(pixels + 120, 0, 255).astype(np.uint8))
    return sane.filter(ImageFilter.GaussianBlur(0.6))


def write_photos(folder: str, count: int) -> Work:
    """Write JPEGs of 640 x 480 pixels into `images/`, and `captions.csv`, which lists them."""

    def go() -> None:
        rng = np.random.default_rng(0)
        captions = make_captions(count)
        images = Path(folder) / "images"
        images.mkdir()
        with (Path(folder) / "captions.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filepath", "title"])
            drawn = [photo(rng) for _ in range(min(count, DRAWN))]
            for number in range(count):
                path = images / f"{number:06d}.jpg"
                moved = rng.integers(0, WIDTH), rng.integers(0, HEIGHT)
                ImageChops.offset(drawn[number % DRAWN], *map(int, moved)).save(
                    path, quality=QUALITY
                )
                table.writerow([path, captions[number]])

    return Work(go)


def make_captions(count: int, seed: int = 0) -> list[str]:
    """Return sentences of 10 to 20 words, none of which occurs twice."""
    rng = np.random.default_rng(seed)
    return [
        f"{' '.join(rng.permutation(WORDS)[: rng.integers(9, 20)])} {number}"
        for number in range(count)
    ]


def photos(folder: str) -> list[Path]:
    """Return the pictures of a folder, sorted."""
    return sorted(Path(folder).glob("*.jpg"))


def pictures(folder: str) -> Iterator[Image.Image]:
    """Yield them, decoded."""
    for path in photos(folder):
        with Image.open(path) as image:
            yield image.convert("RGB")


def write_model(folder: str, architecture: str) -> Work:
    """Write a model of open_clip with random weights: for clipkit, open_clip and transformers.

    They are `clipkit/`, `open_clip.pt`, and `transformers/` where transformers has such a model.
    """

    def go() -> None:
        import open_clip
        import torch

        from clipkit.errors import ModelError
        from clipkit.models import load
        from clipkit.models.states import open_clip_state
        from clipkit.models.write_transformers import write_transformers

        torch.manual_seed(0)
        model = load(f"open_clip:{architecture}@random")
        model.save(str(Path(folder) / "clipkit"), base="inside")
        state = open_clip_state(model)
        if not (open_clip.get_model_config(architecture) or {}).get("custom_text"):
            state = {name.removeprefix("text."): value for name, value in state.items()}
        torch.save(state, Path(folder) / "open_clip.pt")
        try:
            write_transformers(model, Path(folder) / "transformers")
        except ModelError:  # transformers has none of the kind
            return

    return Work(go)


def photo_folder(bench: Bench, count: int) -> str:
    """Return a folder of so many pictures; beside it lies `captions.csv`."""
    return str(bench.prepare("inputs:write_photos", imports=CLIPKIT, count=count) / "images")


def model_folder(bench: Bench, architecture: str) -> str:
    """Return a folder that has a model of random weights for each library."""
    made = bench.prepare("inputs:write_model", imports=CLIPKIT, architecture=architecture)
    return str(made)
