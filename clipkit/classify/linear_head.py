"""A linear softmax classifier on features, fitted to its optimum."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipkit.errors import ConfigError

STEPS = 2000
"""The most steps of L-BFGS; a fit that converges takes tens, or some hundreds."""

Head = tuple[Float[Tensor, "classes dim"], Float[Tensor, " classes"]]
"""Weights and bias: logits are `features @ weights.T + bias`."""


def fit_linear_head(
    features: Float[Tensor, "images dim"],
    labels: Int[Tensor, " images"],
    classes: int,
    *,
    penalty: float,
    start: Float[Tensor, "classes dim"] | None = None,
    weights: Float[Tensor, " images"] | None = None,
    bias: bool = True,
    begin: Head | None = None,
    steps: int = STEPS,
) -> Head:
    """Fit logits `features @ W.T + b` by L-BFGS with a line search (strong Wolfe conditions).

    What is minimised is the mean cross-entropy + `penalty` / 2 * ||W - start||^2: logistic
    regression, pulled to zero or to a classifier that is there already. Without `start` and with
    `penalty` = 1 / (C * images) it is what scikit-learn's `LogisticRegression(C=C)` minimises.

    Args:
        features: of the training images. All is computed in their dtype, on their device.
        labels: numbers of classes, from 0.
        classes: how many there are.
        penalty: of the squared distance of the weights from `start`; the bias is free.
        start: where the penalty pulls to, such as `logit_scale * class_features`; zeros if `None`.
        weights: of the images in the mean, 0 or more; all alike if `None`.
        bias: fit one; without, it is zero.
        begin: weights and bias that the search begins from, such as those of a penalty close by:
            the same optimum in less time. `start` and zeros if `None`.
        steps: the most that are taken, should that be less than the optimum takes.

    Returns:
        Weights and bias.

    Raises:
        ConfigError: what is given is out of range, or a class has no image and would have a bias,
            of which no value is the best.
    """
    _check(features, labels, classes, penalty, weights, with_bias=bias)
    centre = features.new_zeros(classes, features.shape[1])
    if start is not None:
        centre = start.detach().to(features)
    first, first_bias = begin or (centre, features.new_zeros(classes))
    w = first.detach().to(features).clone().requires_grad_()
    b = first_bias.detach().to(features).clone().requires_grad_(bias)
    share = features.new_full((len(labels),), 1 / len(labels))
    if weights is not None:
        share = weights.detach().to(features) / weights.sum().to(features)
    features = features.detach()

    def loss() -> Tensor:
        each = torch.nn.functional.cross_entropy(features @ w.T + b, labels, reduction="none")
        return (share * each).sum() + penalty / 2 * (w - centre).square().sum()

    _minimise([w, b] if bias else [w], loss, steps)
    return w.detach(), b.detach()


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor], steps: int) -> None:
    """Move parameters to where a smooth convex loss is least."""
    tight = torch.finfo(parameters[0].dtype).eps
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        max_eval=4 * steps,
        history_size=20,
        tolerance_grad=tight,
        tolerance_change=tight**2,  # it ends where the line search finds nothing lower
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(step)


def _check(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    weights: Tensor | None,
    *,
    with_bias: bool,
) -> None:
    """Raise ConfigError for what cannot be fitted."""
    if not len(labels) or classes < 2:
        raise ConfigError(
            f"a classifier of {classes} classes cannot be fitted to {len(labels)}"
            " images: two classes and an image are the least"
        )
    if not (math.isfinite(penalty) and penalty >= 0):
        raise ConfigError(f"penalty must be 0 or more, not {penalty}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ConfigError(f"labels: {low} to {high} are not all among {classes} classes from 0")
    if weights is not None and not (bool((weights >= 0).all()) and float(weights.sum()) > 0):
        raise ConfigError("weights: each must be 0 or more, and one above 0")
    if with_bias:
        mass = None if weights is None else weights.double()
        empty = (torch.bincount(labels, mass, classes) == 0).nonzero()[:, 0].tolist()
        if empty:
            raise ConfigError(
                f"class {empty[0]} has no image, so that its bias would fall for ever: leave"
                " the class out, or fit with bias=False"
            )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError("features: some are no finite numbers")
