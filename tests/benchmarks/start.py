"""From nothing to an answer: import, the command line's help, and one picture classified.

Each is a process of its own, from its start to its end; all modules were imported once before, so
that they are compiled and in the page cache, as they are when something is run again. The last has
a ViT-B/32 of random weights on the disk, a photo and three labels.
"""

import json
import sys
from pathlib import Path

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_numbers
from tests.benchmarks.contenders import Contender, warm_up
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import model_folder, photo_folder

LABELS = ["dog", "boat", "house"]
IMPORTS = ("open_clip", "sentence_transformers", "transformers", "clipkit")

CLIPKIT = """
import sys, json, clipkit
model, photo, labels = sys.argv[1] + "/clipkit", sys.argv[2], json.loads(sys.argv[3])
classifier = clipkit.ZeroShotClassifier(model, labels, templates=["a photo of a {}"])
print(classifier.predict_proba([photo])[0].tolist())
"""
OPEN_CLIP = """
import sys, json, torch, open_clip
from PIL import Image
folder, photo, labels = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model, _, transform = open_clip.create_model_and_transforms(
    "ViT-B-32", pretrained=folder + "/open_clip.pt"
)
model.eval()
tokenizer = open_clip.get_tokenizer("ViT-B-32")
with torch.inference_mode():
    images, texts, scale = model(
        transform(Image.open(photo)).unsqueeze(0),
        tokenizer([f"a photo of a {label}" for label in labels]),
    )[:3]
    print((scale * images @ texts.T).softmax(-1)[0].tolist())
"""
PIPELINE = """
import sys, json
from transformers import pipeline
folder, photo, labels = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ask = pipeline("zero-shot-image-classification", folder + "/transformers", device="cpu")
found = ask(photo, candidate_labels=labels, hypothesis_template="a photo of a {}")
scores = {one["label"]: one["score"] for one in found}
print([scores[label] for label in labels])
"""
SENTENCE_TRANSFORMERS = """
import sys, json, torch
from PIL import Image
from sentence_transformers import SentenceTransformer
folder, photo, labels = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = SentenceTransformer(folder + "/transformers", device="cpu")
image = model.encode([Image.open(photo)], normalize_embeddings=True, convert_to_tensor=True)
texts = model.encode(
    [f"a photo of a {label}" for label in labels],
    normalize_embeddings=True,
    convert_to_tensor=True,
)
print((image @ texts.T / 0.07).softmax(-1)[0].tolist())
"""


def run(bench: Bench) -> None:
    """Race."""
    warmed = warm_up(libraries.IMPORTS.values())
    bench.race(
        "import",
        [
            Contender(name.replace("_", "-") if "sent" in name else name, command=said(name))
            for name in IMPORTS
            if bench.scale != "quick" or "sent" not in name
        ],
        amount=1,
        unit="starts",
        rounds=bench.pick(1, 5),
        warm=not warmed,
    )
    commands = {
        "open_clip_train": [sys.executable, "-m", "open_clip_train.main", "--help"],
        "transformers": [str(Path(sys.executable).with_name("transformers")), "--help"],
        "clipkit": [sys.executable, "-m", "clipkit", "--help"],
    }
    bench.race(
        "--help",
        [Contender(who, command=words) for who, words in commands.items()],
        amount=1,
        unit="starts",
        rounds=bench.pick(1, 4, 5),
        warm=not warmed,
    )
    ready(bench, warmed)


def said(name: str) -> list[str]:
    """Return the command that imports a library."""
    return [sys.executable, "-c", f"import {name}"]


def ready(bench: Bench, warmed: bool) -> None:
    """Race to an answer."""
    folder = model_folder(bench, "ViT-B-32")
    photo = f"{photo_folder(bench, 1)}/000000.jpg"
    scripts = {
        "open_clip": OPEN_CLIP,
        "transformers pipeline": PIPELINE,
        "sentence-transformers": SENTENCE_TRANSFORMERS,
        "clipkit": CLIPKIT,
    }
    if bench.scale == "quick":
        del scripts["sentence-transformers"]
    bench.race(
        "ready to answer: load ViT-B-32, classify one photo",
        [
            Contender(
                who, command=[sys.executable, "-c", script, folder, photo, json.dumps(LABELS)]
            )
            for who, script in scripts.items()
        ],
        amount=1,
        unit="starts",
        compare=same_numbers(1e-3),
        rounds=bench.pick(1, 3, 5),
        warm=not warmed,
    )
