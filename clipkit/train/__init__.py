"""Training: the loop, what feeds it, what it writes.

The package is callable: `clipkit.train("recipe.yaml")` is `clipkit.rounds.train`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """Lets `clipkit.train` be both the job and the folder of its parts."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return importlib.import_module("clipkit.rounds").train(*args, **keywords)


sys.modules[__name__].__class__ = _CallableModule
