"""Embeddings of a folder of JPEGs, end to end: clipkit beside open_clip and clip-retrieval.

    python -m tests.benchmarks.export FOLDER [--images 2000] [--repeats 1] [--peer PYTHON]

ViT-B/32 with the same random weights everywhere. clipkit writes a store, in float32 and with
precision "auto"; open_clip is the loop that people write: its model, its transform, a DataLoader of
two workers, batches of 64, one `np.save`; clip-retrieval is its own `clip_inference`, run by the
Python of an environment of its own that has it (`--peer`), with two workers and batches of 64.
Where FOLDER has fewer images than wanted, they are linked several times under other names.

What is embedded is compared before time is. Each runs in a process of its own; what counts is from
the first look at the folder to the last byte on the disk, the loading of libraries and weights not
included. The ceiling is this machine's product of matrices in the same precision.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import clipkit
from clipkit.models import load
from clipkit.models.states import open_clip_state

ARCHITECTURE = "ViT-B-32"
BATCH, WORKERS = 64, 2
SIDE = 3072

RETRIEVAL = """
import sys, time
from all_clip import load_clip
from clip_retrieval.clip_inference import clip_inference
weights, folder, out = sys.argv[1:4]
name = f"open_clip:ViT-B-32/{weights}"
for size in (64, 1):  # as its worker and its mapper will ask for it
    load_clip(clip_model=name, use_jit=False, warmup_batch_size=size, clip_cache_path=None)
start = time.perf_counter()
clip_inference(
    input_dataset=folder, output_folder=out, enable_text=False, enable_metadata=False,
    clip_model=name, use_jit=False, num_prepro_workers=2, batch_size=64, clip_cache_path=None,
)
print("seconds", time.perf_counter() - start)
"""


class Pictures(Dataset[torch.Tensor]):
    """Files, read and transformed as open_clip does."""

    def __init__(self, files: list[Path], transform: object) -> None:
        """Keep them."""
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.files)

    def __getitem__(self, at: int) -> torch.Tensor:
        """Return one picture."""
        made: torch.Tensor = self.transform(Image.open(self.files[at]))  # type: ignore[operator]
        return made


def listed(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted."""
    return sorted(folder.glob("*.jpg"))


def by_open_clip(weights: str, folder: Path, out: Path) -> float:
    """Run the loop that people write; return its seconds."""
    made = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=None)
    model, _, transform = made
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    start = time.perf_counter()
    pictures = Pictures(listed(folder), transform)
    rows = []
    with torch.inference_mode():
        for batch in DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS):
            rows.append(model.encode_image(batch, normalize=True).numpy())
    np.save(out, np.concatenate(rows))
    return time.perf_counter() - start


def by_clipkit(saved: str, folder: Path, out: Path, precision: str) -> float:
    """Write a store; return the seconds."""
    model = load(saved, precision=precision)  # type: ignore[arg-type]
    start = time.perf_counter()
    clipkit.embed(model, folder, out)
    return time.perf_counter() - start


def ceiling(dtype: torch.dtype) -> float:
    """Return how many floating-point operations a second a product of matrices does here."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - start))
    return best


def run_apart(words: list[str]) -> float:
    """Run one contender in a process of its own; return the seconds that it tells."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = re.findall(r"seconds (\S+)", done.stdout)
    if done.returncode or not told:
        raise SystemExit(f"{words[:2]} failed:\n{done.stdout[-500:]}\n{done.stderr[-3000:]}")
    return float(told[-1])


def embeddings(path: Path) -> np.ndarray:
    """Return what a contender wrote."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path), np.float32)
    if (path / "store.json").is_file():
        return clipkit.EmbeddingStore(path).embeddings()
    files = sorted(path.rglob("img_emb_*.npy"))
    return np.concatenate([np.load(file) for file in files]).astype(np.float32)


def compare(options: argparse.Namespace, folder: Path, work: Path) -> None:
    """Run all contenders in turn and print a table."""
    torch.manual_seed(0)
    model = load(f"open_clip:{ARCHITECTURE}@random")
    model.save(str(work / "model"), base="inside")
    clip = open_clip.create_model(ARCHITECTURE)
    state = open_clip_state(model)
    clip.load_state_dict({name.removeprefix("text."): value for name, value in state.items()})
    torch.save(clip.state_dict(), work / "weights.pt")
    contenders: dict[str, list[str]] = {
        "open_clip float32": ["open_clip", str(work / "weights.pt"), str(folder)],
        "clipkit float32": ["clipkit-float32", str(work / "model"), str(folder)],
        "clipkit auto": ["clipkit-auto", str(work / "model"), str(folder)],
    }
    if options.peer:
        contenders["clip-retrieval"] = ["peer", str(work / "weights.pt"), str(folder)]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    reference: np.ndarray | None = None
    for repeat in range(options.repeats):
        for name, words in contenders.items():
            kind = words[0]
            out = work / f"{kind}-{repeat}{'.npy' if kind == 'open_clip' else ''}"
            start = [sys.executable, "-m", "tests.benchmarks.export", "--run"]
            if kind == "peer":
                start = [options.peer, "-c", RETRIEVAL]
                words = words[1:]
            seconds[name].append(run_apart([*start, *words, str(out)]))
            found = embeddings(out)
            reference = found if reference is None else reference
            cosine = (found * reference).sum(1) / np.linalg.norm(found, axis=1)
            sys.stdout.write(
                f"{name}: {seconds[name][-1]:.1f} s, {len(found)} rows, least cosine with"
                f" open_clip's {cosine.min():.6f}\n"
            )
            sys.stdout.flush()
            if len(found) != len(reference) or cosine.min() < 0.999:
                raise SystemExit("the work is not equal")
    report(model, seconds, len(listed(folder)))


def report(model: clipkit.DualEncoder, seconds: dict[str, list[float]], images: int) -> None:
    """Print images a second, ratios, and shares of the ceiling."""
    size = model.preprocessing.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encode_image(torch.zeros(1, 3, size, size))
    work = counter.get_total_flops()
    top = {"float32": ceiling(torch.float32), "auto": ceiling(torch.bfloat16)}
    mine = statistics.median(seconds["clipkit auto"])
    for name, values in seconds.items():
        rate = images / statistics.median(values)
        kind = "auto" if name.endswith("auto") else "float32"
        sys.stdout.write(
            f"{name}: {rate:.1f} images/s, {100 * rate * work / top[kind]:.0f} % of a ceiling of"
            f" {top[kind] / 1e9:.0f} GFLOP/s; clipkit auto is"
            f" {statistics.median(values) / mine:.2f} times as fast\n"
        )


def main() -> None:
    """Compare, or run one contender."""
    if sys.argv[1:2] == ["--run"]:
        kind, weights, folder, out = sys.argv[2:6]
        if kind == "open_clip":
            took = by_open_clip(weights, Path(folder), Path(out))
        else:
            took = by_clipkit(weights, Path(folder), Path(out), kind.partition("-")[2])
        sys.stdout.write(f"seconds {took}\n")
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peer")
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"{options.folder} has no *.jpg")
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for at in range(options.images):
            (photos / f"{at:06d}.jpg").symlink_to(files[at % len(files)].resolve())
        sys.stdout.write(f"{options.images} images, {torch.get_num_threads()} threads\n")
        compare(options, photos, Path(folder))


if __name__ == "__main__":
    main()
