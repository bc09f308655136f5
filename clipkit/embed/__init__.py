"""Embeddings of a collection: exported once, verified, searched.

The package is callable: `clipkit.embed(model, data, out)` is `clipkit.embed.export.embed`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """Lets `clipkit.embed` be both the job and the folder of its parts."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return importlib.import_module("clipkit.embed.export").embed(*args, **keywords)


sys.modules[__name__].__class__ = _CallableModule
