"""Projections: from a tower's features into the joint embedding space."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

ProjectionKind = Literal["linear", "mlp"]


class Projection(nn.Module):
    """Standardises a tower's features and maps them linearly, or with a residual branch on top.

    `linear` is what CLIP uses (Radford et al. 2021, https://arxiv.org/abs/2103.00020), with a bias.
    `mlp` adds `out(dropout(gelu(hidden(y))))` to the linear map's result y; `out` starts at zero,
    so both kinds start out equal. Until `standardise` has seen features, they pass as they are.

    Args:
        features: width of the input.
        dim: width of the output.
        kind: "linear" or "mlp".
        hidden: width of the hidden layer of "mlp".

    Attributes:
        dropout: `p` is the share of hidden units dropped in training; 0 unless a run sets it.
        feature_dropout: likewise of the standardised input; a dropped feature is at its mean.
    """

    mean: Tensor
    std: Tensor
    standardised: Tensor

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        kind: ProjectionKind = "linear",
        hidden: int = 512,
    ) -> None:
        """Make the layers; the linear map keeps the length of a standardised input, on average."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("standardised", torch.tensor(False))
        self.feature_dropout = nn.Dropout(0.0)
        self.linear = nn.Linear(features, dim)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.hidden: nn.Linear | None = None
        self.out: nn.Linear | None = None
        self.dropout = nn.Dropout(0.0)
        if kind == "mlp":
            self.hidden = nn.Linear(dim, hidden)
            self.out = nn.Linear(hidden, dim)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "batch features"], *, drop_features: bool = True
    ) -> Float[Tensor, "batch dim"]:
        """Project; the result is not normalised.

        Args:
            x: what the tower gave.
            drop_features: false leaves feature dropout out even in training, for a term of the loss
                that wants the features as they are.
        """
        x = (x - self.mean) / self.std
        if drop_features:
            x = self.feature_dropout(x)
        y: Tensor = self.linear(x)
        if self.hidden is not None and self.out is not None:
            y = y + self.out(self.dropout(nn.functional.gelu(self.hidden(y))))
        return y

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "rows features"], *, floor: float = 1e-3) -> None:
        """Take mean and standard deviation from features, once; later calls change nothing.

        Args:
            features: what the tower gives for the training data, at least two rows.
            floor: added to each standard deviation, so that a constant feature stays harmless.
        """
        if self.standardised:
            return
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + floor)
        self.standardised.fill_(True)
