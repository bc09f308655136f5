"""clipkit: fine-tune, use and export CLIP-style image-text models.

Three jobs, each the same from Python and from the command line:

    clipkit.train("openmoji")                                          clipkit train openmoji
    clipkit.ZeroShotClassifier("starter", ["cat", "dog"]).predict(…)   clipkit classify …
    clipkit.embed("starter", "photos/", "store/")                      clipkit embed …

Names load on first use, so that `import clipkit` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.classify.zero_shot import ZeroShotClassifier
    from clipkit.data.load import load_data
    from clipkit.embed.export import embed
    from clipkit.embed.store import EmbeddingStore
    from clipkit.errors import ClipkitError
    from clipkit.evaluate.run import evaluate
    from clipkit.labelling import label
    from clipkit.models import DualEncoder, load
    from clipkit.rounds import train

__version__ = "0.1.0"

__all__ = [
    "ClipkitError",
    "DualEncoder",
    "EmbeddingStore",
    "ZeroShotClassifier",
    "embed",
    "evaluate",
    "label",
    "load",
    "load_data",
    "train",
]

_HOMES = {
    "ClipkitError": "clipkit.errors",
    "DualEncoder": "clipkit.models",
    "EmbeddingStore": "clipkit.embed.store",
    "ZeroShotClassifier": "clipkit.classify.zero_shot",
    "label": "clipkit.labelling",
    "load": "clipkit.models",
    "load_data": "clipkit.data.load",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in ("embed", "evaluate", "train"):
        return importlib.import_module(f"clipkit.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'clipkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names before they are loaded."""
    return sorted({*globals(), *__all__})
