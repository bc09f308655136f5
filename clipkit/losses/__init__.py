"""Losses: what training minimises."""

from clipkit.losses.clip import ClipLoss
from clipkit.losses.distill import DistillLoss
from clipkit.losses.positives import Duplicates, Positives
from clipkit.losses.share import Share
from clipkit.losses.siglip import SigLipLoss

LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss}
"""The losses a recipe can name."""

__all__ = [
    "LOSSES",
    "ClipLoss",
    "DistillLoss",
    "Duplicates",
    "Positives",
    "Share",
    "SigLipLoss",
]
