"""Photos from files to a probability for each of twenty labels, the labels' encoding included.

ViT-B/32 of random weights, one prompt. open_clip and CLIP_benchmark have a DataLoader of two
workers; transformers is its zero-shot pipeline. Probabilities are compared.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_numbers
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import photo_folder, photos
from tests.benchmarks.peers import clip_benchmark
from tests.benchmarks.torch_files import loader
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURE = "ViT-B-32"
BATCH, WARM = 64, 8
PROMPT = "a photo of a {}"
LABELS = (
    "dog cat horse bird boat house car tree flower ball beach umbrella person bicycle train cup"
    " chair mountain river bridge"
).split()


def run(bench: Bench) -> None:
    """Race."""
    for device in bench.devices:
        count = bench.pick(16, 32, 1000) if device == "cpu" else bench.pick(256, 1000)
        made = libraries.contenders(
            bench,
            "classify",
            ARCHITECTURE,
            device,
            ("open_clip", "transformers", "clipkit"),
            folder_of_photos=photo_folder(bench, count),
        )
        benchmark = Contender(
            "CLIP_benchmark",
            "classify:by_clip_benchmark",
            made[0].given,
            imports=libraries.IMPORTS["CLIP_benchmark"],
            device=device,
        )
        bench.race(
            f"classify {count} photos, 20 labels{libraries.on(device)}",
            [made[0], *[benchmark] * (bench.scale != "quick"), *made[1:]],
            amount=count,
            unit="images",
            compare=same_numbers(2e-3),
            rounds=bench.pick(1, 3),
            warm=False,
        )


def by_clipkit(folder_of_photos: str, **which: str) -> Work:
    """`ZeroShotClassifier`."""
    from clipkit.classify import ZeroShotClassifier

    model, files = libraries.clipkit(**which), photos(folder_of_photos)

    def proba(of: list[Any]) -> "np.ndarray":
        return ZeroShotClassifier(model, LABELS, templates=[PROMPT]).predict_proba(of)

    proba(files[:WARM])
    return Work(lambda: proba(files), flops=libraries.image_flops(model) * len(files))


def by_open_clip(folder_of_photos: str, **which: str) -> Work:
    """The loop that people write around `build_zero_shot_classifier`."""
    import torch
    from open_clip import build_zero_shot_classifier

    model, transform, tokenizer = libraries.open_clip(**which)
    files, place = photos(folder_of_photos), next(model.parameters())

    def proba(of: list[Any]) -> "np.ndarray":
        head = build_zero_shot_classifier(
            model, tokenizer, LABELS, [PROMPT.format], device=which["device"]
        )
        rows = []
        with torch.inference_mode():
            for batch in loader(of, transform, BATCH):
                features = model.encode_image(batch.to(place), normalize=True)
                logits = model.logit_scale.exp() * features @ head
                rows.append(logits.float().softmax(-1).cpu())
        made: np.ndarray = torch.cat(rows).numpy()
        return made

    proba(files[:WARM])
    return Work(lambda: proba(files))


def by_clip_benchmark(folder_of_photos: str, **which: str) -> Work:
    """Its `zero_shot_classifier` and `run_classification`, with open_clip's model."""
    module = clip_benchmark("zeroshot_classification")
    model, transform, tokenizer = libraries.open_clip(**which)
    files, device = photos(folder_of_photos), which["device"]

    def labelled(of: list[Any]) -> Iterable[tuple[Any, Any]]:
        for batch in loader(of, transform, BATCH):
            yield batch, batch.new_zeros(len(batch))

    def proba(of: list[Any]) -> "np.ndarray":
        prompts = [PROMPT.replace("{}", "{c}")]
        head = module.zero_shot_classifier(model, tokenizer, LABELS, prompts, device, amp=False)
        logits, _ = module.run_classification(model, head, labelled(of), device, amp=False)
        scale = float(model.logit_scale.exp()) / 100  # it has CLIP's own, 100
        made: np.ndarray = (scale * logits).softmax(-1).numpy()
        return made

    proba(files[:WARM])
    return Work(lambda: proba(files))


def by_transformers(folder_of_photos: str, **which: str) -> Work:
    """Its zero-shot pipeline."""
    import numpy as np
    from transformers import pipeline

    ask = pipeline(
        "zero-shot-image-classification",
        f"{which['folder']}/transformers",
        device=which["device"],
    )
    files = [str(path) for path in photos(folder_of_photos)]

    def proba(of: list[str]) -> "np.ndarray":
        found = ask(of, candidate_labels=LABELS, hypothesis_template=PROMPT)
        scores = [{one["label"]: one["score"] for one in answers} for answers in found]
        return np.asarray([[one[label] for label in LABELS] for one in scores])

    proba(files[:WARM])
    return Work(lambda: proba(files))
