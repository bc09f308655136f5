"""Chance in training, as a function of numbers that name the moment.

Dropout and its like draw from torch's generators. Before each forward pass the generators are
seeded from the run's seed, the step, the process and the micro-batch; so a pass is repeated by
seeding again, and a run that is resumed at any step needs no state of any generator.
"""

import hashlib

import torch


def seed_chance(*moment: int) -> None:
    """Seed torch's generators of all devices from some whole numbers."""
    digest = hashlib.blake2b(repr(moment).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
