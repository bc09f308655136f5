"""Losses: what training minimises."""

from clipkit.losses.clip import ClipLoss
from clipkit.losses.positives import positives_by_content

LOSSES = {"clip": ClipLoss}
"""The losses a recipe can name."""

__all__ = ["LOSSES", "ClipLoss", "positives_by_content"]
