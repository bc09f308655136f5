"""A classifier's head from class names and prompts, with one model.

ImageNet's class names, evenly picked, in the 80 prompts of the CLIP paper; time goes with the
number of names, of which `--whole` takes all 1,000. The heads are compared.
"""

from typing import TYPE_CHECKING

from tests.benchmarks import libraries
from tests.benchmarks.compare import same_direction
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.peers import clip_benchmark
from tests.benchmarks.worker import Work

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURE = "ViT-B-32"
WARM = 8
"""Prompts to warm up with."""


def run(bench: Bench) -> None:
    """Race."""
    for device in bench.devices:
        names = bench.pick(1, 2, 1000) if device == "cpu" else bench.pick(20, 200, 1000)
        made = libraries.contenders(
            bench, "zero_shot_head", ARCHITECTURE, device, ("open_clip", "clipkit"), names=names
        )
        peer = made[0]
        bench.race(
            f"zero-shot head, {names} classes x 80 prompts{libraries.on(device)}",
            [
                *[one for one in made if one.is_peer],
                Contender(
                    "CLIP_benchmark",
                    "zero_shot_head:by_clip_benchmark",
                    peer.given,
                    imports=libraries.IMPORTS["CLIP_benchmark"],
                    device=device,
                ),
                *[one for one in made if not one.is_peer],
            ],
            amount=names * 80,
            unit="prompts",
            compare=same_direction(0.9999),
            rounds=bench.pick(1, 3, 1),
            warm=False,
        )


def chosen(names: int) -> tuple[list[str], list[str]]:
    """Return class names and prompts."""
    from clipkit.imagenet import imagenet_class_names, imagenet_templates

    every = imagenet_class_names()
    return list(every[:: len(every) // names][:names]), list(imagenet_templates())


def by_clipkit(names: int, **which: str) -> Work:
    """The classifier's own, without its cache."""
    from clipkit.classify.head import class_features
    from clipkit.encode import encode_texts

    model = libraries.clipkit(**which)
    classes, templates = chosen(names)

    def head(of: list[str], prompts: list[str]) -> "np.ndarray":
        groups = [(name,) for name in of]
        return class_features(groups, prompts, lambda texts: encode_texts(model, texts)).numpy()

    texts = [template.replace("{}", name) for name in classes for template in templates]
    flops = libraries.text_flops(model, texts)
    head(classes[:1], templates[:WARM])
    return Work(lambda: head(classes, templates), flops=flops)


def by_open_clip(names: int, **which: str) -> Work:
    """Its `build_zero_shot_classifier`."""
    from open_clip import build_zero_shot_classifier

    model, _, tokenizer = libraries.open_clip(**which)
    classes, templates = chosen(names)

    def head(of: list[str], prompts: list[str]) -> "np.ndarray":
        made = build_zero_shot_classifier(model, tokenizer, of, prompts, device=which["device"])
        found: np.ndarray = made.T.float().cpu().numpy()
        return found

    head(classes[:1], templates[:WARM])
    return Work(lambda: head(classes, templates))


def by_clip_benchmark(names: int, **which: str) -> Work:
    """Its `zero_shot_classifier`, with open_clip's model."""
    module = clip_benchmark("zeroshot_classification")
    model, _, tokenizer = libraries.open_clip(**which)
    classes, templates = chosen(names)
    templates = [template.replace("{}", "{c}") for template in templates]

    def head(of: list[str], prompts: list[str]) -> "np.ndarray":
        made = module.zero_shot_classifier(
            model, tokenizer, of, prompts, which["device"], amp=False
        )
        found: np.ndarray = made.T.float().cpu().numpy()
        return found

    head(classes[:1], templates[:WARM])
    return Work(lambda: head(classes, templates))
