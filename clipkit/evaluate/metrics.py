"""Metrics: tensors in, floats out. Accuracies and recalls are shares in [0, 1]."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1024


def match_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    matches: Int[Tensor, "pairs 2"],
) -> Int[Tensor, " queries"]:
    """Return the rank (from 0) of each query's best match in the gallery.

    An image with five captions, or a caption that two images share, is answered by any of its
    matches. The rank is the number of non-matching rows that score at least as high as the best
    match: a model that gives everything the same score ranks last, not first. It goes through the
    queries in chunks, so memory is bounded by `CHUNK` rows of the score matrix.

    Args:
        queries: L2-normalised.
        gallery: L2-normalised.
        matches: rows (query, gallery row) that belong together; each query has at least one.
    """
    ranks = []
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ gallery.T
        inside = (matches[:, 0] >= start) & (matches[:, 0] < start + CHUNK)
        match = torch.zeros_like(scores, dtype=torch.bool)
        match[matches[inside, 0] - start, matches[inside, 1]] = True
        best = scores.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
        ranks.append(((scores >= best) & ~match).sum(1))
    return torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.long)


def recall_at(ranks: Int[Tensor, " queries"], k: int) -> float:
    """Return the share of queries whose best match is among the first k."""
    return (ranks < k).double().mean().item()


def top_k_accuracy(
    logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], k: int
) -> float:
    """Return the share of images whose label is among their k highest logits."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).any(1).double().mean().item()


def mean_class_recall(
    logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]
) -> float:
    """Return the mean over classes of the share of their images that is classified right.

    Classes without images do not count.
    """
    right = (logits.argmax(1) == labels).double()
    return torch.stack([right[labels == label].mean() for label in labels.unique()]).mean().item()
