import pytest
import torch

from clipkit.models.projections import Projection


def test_mlp_starts_out_as_its_linear_map() -> None:
    torch.manual_seed(0)
    mlp = Projection(6, 4, kind="mlp", hidden=5)
    x = torch.randn(3, 6)
    torch.testing.assert_close(mlp(x), x @ mlp.linear.weight.T)


def test_mlp_is_what_its_docstring_says() -> None:
    torch.manual_seed(0)
    mlp = Projection(6, 4, kind="mlp", hidden=5)
    assert mlp.hidden is not None
    assert mlp.out is not None
    torch.nn.init.normal_(mlp.out.weight)
    x = torch.randn(3, 6)
    mlp.standardise(torch.randn(50, 6) * 3 + 2)
    y = mlp.linear((x - mlp.mean) / mlp.std)
    expected = y + mlp.out(torch.nn.functional.gelu(mlp.hidden(y)))
    torch.testing.assert_close(mlp(x), expected)


def test_standardise_once() -> None:
    features = torch.randn(200, 3) * torch.tensor([1.0, 5.0, 0.0]) + 7
    projection = Projection(3, 2)
    projection.standardise(features)
    torch.testing.assert_close(projection.mean, features.mean(0))
    torch.testing.assert_close(projection.std, features.std(0) + 1e-3)
    assert projection.std.min() > 0
    projection.standardise(features * 9)
    torch.testing.assert_close(projection.mean, features.mean(0))


def test_dropped_features_are_at_their_mean_and_only_in_training() -> None:
    torch.manual_seed(0)
    projection = Projection(8, 2)
    projection.standardise(torch.randn(100, 8) + 4)
    projection.feature_dropout.p = 0.999999
    x = torch.randn(5, 8)
    projection.train()
    expected = projection.linear.bias.expand(5, 2)
    torch.testing.assert_close(projection(x), expected, rtol=0, atol=1e-6)
    whole = projection(x, drop_features=False)
    projection.eval()
    torch.testing.assert_close(projection(x), whole)


def test_the_linear_map_keeps_lengths_on_average() -> None:
    torch.manual_seed(0)
    projection = Projection(400, 300)
    lengths = projection(torch.randn(100, 400)).norm(dim=1) / 300**0.5
    assert lengths.mean().item() == pytest.approx(1.0, abs=0.05)
