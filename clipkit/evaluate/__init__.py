"""Evaluation: how good a model is, on whose data.

The package is callable: `clipkit.evaluate(models, data)` is `clipkit.evaluate.run.evaluate`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from clipkit.evaluate.geometry import Geometry
from clipkit.evaluate.linear_probe import LinearProbe
from clipkit.evaluate.retrieval import Retrieval
from clipkit.evaluate.zero_shot import ZeroShot

EVALUATORS = {
    "retrieval": Retrieval,
    "zero_shot": ZeroShot,
    "linear_probe": LinearProbe,
    "geometry": Geometry,
}
"""The evaluators a recipe or the command line can name."""

__all__ = ["EVALUATORS", "Geometry", "LinearProbe", "Retrieval", "ZeroShot"]


class _CallableModule(ModuleType):
    """Lets `clipkit.evaluate` be both the job and the folder of its parts."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return importlib.import_module("clipkit.evaluate.run").evaluate(*args, **keywords)


sys.modules[__name__].__class__ = _CallableModule
