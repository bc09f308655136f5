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

LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss, "hardest_negative": HardestNegativeLoss}
"""The losses of pictures and captions that a recipe can name."""

VIEW_LOSSES = {
    "ntxent": NTXentLoss,
    "moco": MoCoLoss,
    "supcon": SupConLoss,
    "triplet": TripletLoss,
}
"""Those of two views of a picture."""

__all__ = [
    "LOSSES",
    "NO_LABEL",
    "VIEW_LOSSES",
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
