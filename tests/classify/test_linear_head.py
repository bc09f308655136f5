"""The linear head against scikit-learn, and against the gradient at its optimum."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from clipkit.classify.linear_head import fit_linear_head
from clipkit.errors import ConfigError


@pytest.fixture
def blobs() -> tuple[Tensor, Tensor]:
    """Ninety points of three overlapping classes in six dimensions."""
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(30)
    return torch.randn(90, 6).double() + 1.5 * torch.eye(6).double()[labels], labels


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_the_optimum_is_scikit_learns(blobs: tuple[Tensor, Tensor], penalty: float) -> None:
    features, labels = blobs
    weights, bias = fit_linear_head(features, labels, 3, penalty=penalty)
    other = LogisticRegression(C=1 / (penalty * 90), tol=1e-10, max_iter=10_000)
    other.fit(features.numpy(), labels.numpy())
    torch.testing.assert_close(weights, torch.from_numpy(other.coef_), atol=2e-5, rtol=1e-5)
    free = torch.from_numpy(other.intercept_)  # up to a constant, which softmax does not see
    torch.testing.assert_close(bias - bias.mean(), free - free.mean(), atol=2e-5, rtol=1e-5)


def test_image_weights_are_scikit_learns(blobs: tuple[Tensor, Tensor]) -> None:
    features, labels = blobs
    each = torch.rand(90).double() + 0.1
    weights, _ = fit_linear_head(features, labels, 3, penalty=0.05, weights=each)
    other = LogisticRegression(C=1 / (0.05 * float(each.sum())), tol=1e-10, max_iter=10_000)
    other.fit(features.numpy(), labels.numpy(), sample_weight=each.numpy())
    torch.testing.assert_close(weights, torch.from_numpy(other.coef_), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_about_a_start_is_zero(blobs: tuple[Tensor, Tensor], bias: bool) -> None:
    """Of the mean cross-entropy and the pull to a start, by autograd at what was found."""
    features, labels = blobs
    start = 30 * torch.nn.functional.normalize(torch.randn(3, 6).double(), dim=1)
    weights, free = fit_linear_head(features, labels, 3, penalty=0.2, start=start, bias=bias)
    w, b = weights.clone().requires_grad_(), free.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ w.T + b, labels)
    (loss + 0.1 * (w - start).square().sum()).backward()
    assert w.grad is not None and b.grad is not None
    assert float(w.grad.abs().max()) < 1e-6
    assert float(b.grad.abs().max()) < 1e-6 if bias else not bool(free.any())


def test_a_strong_penalty_leaves_the_start(blobs: tuple[Tensor, Tensor]) -> None:
    features, labels = blobs
    start = torch.randn(3, 6).double()
    weights, _ = fit_linear_head(features, labels, 3, penalty=1e9, start=start)
    torch.testing.assert_close(weights, start, atol=1e-6, rtol=0)


def test_where_the_search_begins_does_not_matter(blobs: tuple[Tensor, Tensor]) -> None:
    features, labels = blobs
    plain = fit_linear_head(features, labels, 3, penalty=0.01)
    begin = (torch.randn(3, 6).double(), torch.randn(3).double())
    again = fit_linear_head(features, labels, 3, penalty=0.01, begin=begin)
    torch.testing.assert_close(again[0], plain[0], atol=1e-5, rtol=0)
    with torch.no_grad():
        single, _ = fit_linear_head(features.float(), labels, 3, penalty=0.01)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), plain[0], atol=5e-3, rtol=0)
    assert not single.requires_grad


def test_what_cannot_be_fitted_is_told(blobs: tuple[Tensor, Tensor]) -> None:
    features, labels = blobs
    with pytest.raises(ConfigError, match="class 3 has no image"):
        fit_linear_head(features, labels, 4, penalty=1.0)
    fit_linear_head(features, labels, 4, penalty=1.0, bias=False)
    with pytest.raises(ConfigError, match="0 to 2 are not all among 2 classes"):
        fit_linear_head(features, labels, 2, penalty=1.0)
    with pytest.raises(ConfigError, match="0 or more, not -1"):
        fit_linear_head(features, labels, 3, penalty=-1.0)
    with pytest.raises(ConfigError, match="weights: each"):
        fit_linear_head(features, labels, 3, penalty=1.0, weights=torch.zeros(90))
    with pytest.raises(ConfigError, match="0 images"):
        fit_linear_head(features[:0], labels[:0], 3, penalty=1.0)
    with pytest.raises(ConfigError, match="no finite numbers"):
        fit_linear_head(features.log(), labels, 3, penalty=1.0)
