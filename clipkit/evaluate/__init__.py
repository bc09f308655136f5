"""Evaluation: how good a model is, on whose data."""

from clipkit.evaluate.retrieval import Retrieval
from clipkit.evaluate.zero_shot import ZeroShot

EVALUATORS = {"retrieval": Retrieval, "zero_shot": ZeroShot}
"""The evaluators a recipe or the command line can name."""

__all__ = ["EVALUATORS", "Retrieval", "ZeroShot"]
