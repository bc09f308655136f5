"""Losses: what training minimises."""

from clipkit.losses.clip import ClipLoss
from clipkit.losses.distill import DistillLoss
from clipkit.losses.hardest_negative import HardestNegativeLoss
from clipkit.losses.labels import NO_LABEL
from clipkit.losses.moco import KeyQueue, MoCoLoss
from clipkit.losses.ntxent import NTXentLoss
from clipkit.losses.positives import Duplicates, Positives
from clipkit.losses.share import Share
from clipkit.losses.siglip import SigLipLoss
from clipkit.losses.supcon import SupConLoss
from clipkit.losses.triplet import Distance, Mining, TripletLoss

LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss}
"""The losses a recipe can name."""

__all__ = [
    "LOSSES",
    "NO_LABEL",
    "ClipLoss",
    "Distance",
    "DistillLoss",
    "Duplicates",
    "HardestNegativeLoss",
    "KeyQueue",
    "Mining",
    "MoCoLoss",
    "NTXentLoss",
    "Positives",
    "Share",
    "SigLipLoss",
    "SupConLoss",
    "TripletLoss",
]
