"""Unlabelled images get labels, each with its confidence: `clipkit.label` and what is behind it."""

from clipkit.labelling.job import label
from clipkit.labelling.write import Labelling

__all__ = ["Labelling", "label"]
