from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from clipkit.models import fast_paths as module
from clipkit.models.fast_paths import fast_paths


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name each function that something is put in the place of."""
    seen: list[str] = []

    def noting(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            seen.append(name)
            return instead(*given, **named)

        return noted

    for function, instead in list(module.INSTEAD.items()):
        monkeypatch.setitem(module.INSTEAD, function, noting(function.__name__, instead))
    return seen


def tower() -> nn.Module:
    """A picture's patches, attending to each other."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 8, 8),
        nn.Flatten(2),
        nn.TransformerEncoderLayer(16, 2, 16, batch_first=True, dropout=0.0),
    )


def test_on_a_cpu_functions_are_found_by_who_calls_them(asked: list[str]) -> None:
    made, pixels = tower(), torch.randn(2, 3, 32, 32)
    expected = made(pixels)
    assert not asked
    with fast_paths(torch.device("cpu")):
        found = made(pixels)
    assert asked == ["conv2d", "multi_head_attention_forward"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_on_other_devices_nothing_is_put_in_their_place(asked: list[str]) -> None:
    with fast_paths(torch.device("cuda")):
        tower()(torch.randn(2, 3, 32, 32))
    assert not asked
