"""One model of random weights as each library loads it, and who can work with it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench
from tests.benchmarks.inputs import CLIPKIT, model_folder

if TYPE_CHECKING:
    from clipkit.models import DualEncoder

WHO = {
    "open_clip": ("by_open_clip", ("float32", "bf16")),
    "transformers": ("by_transformers", ("float32",)),
    "sentence-transformers": ("by_sentence_transformers", ("float32",)),
    "clipkit": ("by_clipkit", ("float32", "auto")),
}

IMPORTS = {
    "open_clip": ("open_clip",),
    "CLIP_benchmark": ("open_clip",),
    "webdataset": ("open_clip",),
    "datasets": ("open_clip",),
    "transformers": ("torch", "transformers"),
    "sentence-transformers": ("sentence_transformers",),
    "clipkit": CLIPKIT,
}
"""What each has imported before it begins, of what it would import anyway; see `nursery`."""


def on(device: str) -> str:
    """Return what a job on a device is called besides."""
    return "" if device == "cpu" else ", GPU"


def contenders(
    bench: Bench,
    job: str,
    architecture: str,
    device: str,
    who: Sequence[str] = tuple(WHO),
    **given: Any,
) -> list[Contender]:
    """Return who can do a job with a model of open_clip, in which precisions.

    Args:
        bench: makes the model.
        job: the module, which has `by_open_clip` and so on.
        architecture: open_clip's name.
        device: "cpu" or "cuda".
        who: libraries that the job has functions for.
        given: to these functions, besides `folder`, `architecture`, `device` and `precision`.
    """
    folder = model_folder(bench, architecture)
    mobile = architecture.startswith("MobileCLIP")  # neither of them has it
    names = [name for name in who if not (mobile and "transformers" in name)]
    if bench.scale == "quick":
        names = [name for name in names if name != "transformers"]
    told = {**given, "folder": folder, "architecture": architecture, "device": device}
    return [
        Contender(
            f"{name} {precision}",
            f"{job}:{WHO[name][0]}",
            {**told, "precision": precision},
            imports=IMPORTS[name],
            precision="float32" if precision == "float32" else "bf16",
            device=device,
        )
        for name in names
        for precision in WHO[name][1]
        if bench.scale != "quick" or precision != "bf16"
    ]


def clipkit(folder: str, architecture: str, device: str, precision: str) -> "DualEncoder":
    """Load it as clipkit does."""
    from clipkit.models import load

    return load(f"{folder}/clipkit", precision=precision, device=device)  # type: ignore[arg-type]


def open_clip(folder: str, architecture: str, device: str, precision: str) -> tuple[Any, Any, Any]:
    """Load it as open_clip does; return the model, the transform for evaluation, the tokenizer."""
    import open_clip as library

    kind = {"float32": "fp32", "bf16": "pure_bf16"}[precision]
    model, _, transform = library.create_model_and_transforms(
        architecture, pretrained=f"{folder}/open_clip.pt", precision=kind, device=device
    )
    return model.eval(), transform, library.get_tokenizer(architecture)


def transformers(folder: str, architecture: str, device: str, precision: str) -> tuple[Any, Any]:
    """Load it as transformers does; return the model and its processor."""
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(f"{folder}/transformers").eval().to(device)
    return model, AutoProcessor.from_pretrained(f"{folder}/transformers")


def sentence_transformers(folder: str, architecture: str, device: str, precision: str) -> Any:
    """Load it as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(f"{folder}/transformers", device=device)


@contextmanager
def counting() -> Iterator[Any]:
    """Count operations, also those of attention, whose fast path nobody counts."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def image_flops(model: "DualEncoder") -> float:
    """Return the operations that one image needs."""
    import torch

    size = model.preprocessing.size
    with counting() as counter:
        model.encode_image(torch.zeros(1, 3, size, size, device=model.device))
    return float(counter.get_total_flops())


def text_flops(model: "DualEncoder", texts: Sequence[str]) -> float:
    """Return the operations that texts need, each no longer than it is: one of a length tells."""
    total = 0.0
    for length, count in Counter(lengths := model.count_tokens(texts)).items():
        tokens = model.tokenize([texts[lengths.index(length)]])
        with counting() as counter:
            model.encode_text({name: one.to(model.device) for name, one in tokens.items()})
        total += count * counter.get_total_flops()
    return total
