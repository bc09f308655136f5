import pytest
import torch
from torch import Tensor, nn

from clipkit.models import fast_paths as module
from clipkit.models.fast_paths import fast_paths
from clipkit.models.patches import project_patches

CPU = torch.device("cpu")


@pytest.fixture
def projected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Say of each convolution that is met whether it became a projection."""
    seen: list[bool] = []

    def noted(*given: object, **named: object) -> Tensor | None:
        found = project_patches(*given, **named)  # type: ignore[arg-type]
        seen.append(found is not None)
        return found

    monkeypatch.setitem(module.INSTEAD, torch.conv2d, noted)
    return seen


def computed(conv: nn.Conv2d, pixels: Tensor) -> list[Tensor]:
    """What a layer gives, and its gradients, those of the pixels among them."""
    conv.zero_grad()
    pixels = pixels.clone().requires_grad_()
    made = conv(pixels)
    made.double().sin().sum().backward()
    sides = (made, pixels.grad, conv.weight.grad, None if conv.bias is None else conv.bias.grad)
    return [side.detach() for side in sides if side is not None]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", [(8, 8), (16, 8)])
def test_patches_are_projected_as_the_convolution_does(
    side: tuple[int, int], bias: bool, projected: list[bool]
) -> None:
    """The same in float64 to its last places, also where the picture is no square."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, side, side, bias=bias).double()
    pixels = torch.randn(4, 3, 32, 48).double()
    expected = computed(conv, pixels)
    with fast_paths(CPU):
        found = computed(conv, pixels)
    assert projected == [True]
    assert len(found) == 3 + bias
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_patches_in_bfloat16_are_as_near_to_the_exact_ones(projected: list[bool]) -> None:
    torch.manual_seed(0)
    conv, pixels = nn.Conv2d(3, 64, 16, 16), torch.randn(8, 3, 64, 64)
    exact = computed(conv, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = computed(conv, pixels)
        with fast_paths(CPU):
            mine = computed(conv, pixels)
    assert projected == [True]
    assert mine[0].dtype == torch.bfloat16
    for own, other, right in zip(mine, theirs, exact, strict=True):
        assert own.dtype == other.dtype
        assert (own - right).norm() < 1.2 * (other - right).norm() + 1e-6 * right.norm()
        assert (own - right).norm() < 0.02 * right.norm()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 16, 8),  # patches overlap
        nn.Conv2d(4, 4, 8, 16),  # or leave gaps
        nn.Conv2d(4, 4, 8, 8, padding=4),
        nn.Conv2d(4, 4, 8, 8, groups=2),
        nn.Conv2d(4, 4, 8, 8, dilation=2),
        nn.Conv2d(4, 4, 10, 10),  # the picture is no whole number of them
        nn.Conv2d(4, 4, 4, 4),  # the step from stage to stage of a convolutional tower
    ],
)
def test_other_convolutions_are_left_to_pytorch(conv: nn.Conv2d, projected: list[bool]) -> None:
    pixels = torch.randn(2, 4, 32, 32)
    expected = computed(conv, pixels)
    with fast_paths(CPU):
        found = computed(conv, pixels)
    assert projected == [False]
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_a_picture_without_a_batch_is_left_to_pytorch(projected: list[bool]) -> None:
    conv, pixels = nn.Conv2d(3, 4, 8, 8), torch.randn(3, 16, 16)
    with fast_paths(CPU):
        found = conv(pixels)
    assert projected == [False]
    assert torch.equal(found, conv(pixels))


def test_patches_of_all_libraries_are_projected(projected: list[bool]) -> None:
    """As modules of their own, not by our code."""
    import open_clip
    import timm
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    for tower in (
        CLIPVisionModel(config),
        timm.create_model("test_vit", num_classes=0, img_size=32),
        open_clip.create_model("ViT-B-32", force_image_size=32, force_patch_dropout=None).visual,
    ):
        projected.clear()
        with fast_paths(CPU):
            tower(torch.randn(2, 3, 32, 32))
        assert projected == [True]
