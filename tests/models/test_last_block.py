import copy
import pickle
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from clipkit.models.open_clip_towers import OpenClipImageTower, OpenClipTextTower

TEXT = {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2}


def drawn(module: nn.Module) -> nn.Module:
    """Give a module weights that leave no part of it without effect."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=0.3)
    return module.eval()


def text_tower(**settings: Any) -> Any:
    text = open_clip.transformer.TextTransformer(**TEXT, output_dim=8, **settings)
    return OpenClipTextTower(drawn(text), shortens=False)


def image_tower(**settings: Any) -> Any:
    visual = open_clip.transformer.VisionTransformer(**VISION, output_dim=8, **settings)
    return OpenClipImageTower(drawn(visual))


def texts() -> Tensor:
    """Three texts of different lengths, each ended by the largest number, and zeros."""
    full = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((3, 6, 11)):
        full[row, :length] = torch.randint(1, 58, (length,))
        full[row, length - 1] = 59
    return full


def last_of(tower: Any) -> Any:
    return tower.model.transformer.resblocks[-1]


def tokens_seen(tower: Any, given: Any) -> int:
    """Return how many tokens of each input the last block's MLP computes."""
    seen = []
    hook = last_of(tower).mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    tower(given)
    hook.remove()
    return int(seen[0][1])


def features_and_gradients(
    tower: nn.Module, model: nn.Module, given: Any
) -> tuple[Tensor, list[Tensor]]:
    """Return what a tower gives, and the gradient of something of all of it."""
    model.zero_grad()
    features = tower(given)
    features.sin().sum().backward()
    return features.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_equal_to_the_whole(tower: Any, given: Any, whole: Any) -> None:
    """The library's model, called itself, computes every token."""
    features, gradients = features_and_gradients(tower, tower.model, given)
    expected, theirs = features_and_gradients(tower.model, tower.model, whole)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert len(gradients) == len(theirs)
    for mine, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pool", ["first", "last", "argmax", "eos"])
def test_texts(pool: str, causal: bool, scale: float | None) -> None:
    tower = text_tower(pool_type=pool, no_causal_mask=not causal, eos_id=59, ls_init_value=scale)
    ids = texts()
    assert_equal_to_the_whole(tower, {"input_ids": ids}, ids)
    assert tokens_seen(tower, {"input_ids": ids}) == 1


def test_images() -> None:
    tower, images = image_tower(), torch.randn(3, 3, 32, 32)
    assert_equal_to_the_whole(tower, images, images)
    assert tokens_seen(tower, images) == 1


def test_each_block_but_the_last_computes_all_tokens() -> None:
    tower = image_tower()
    seen = []
    tower.model.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[1])
    )
    tower(torch.randn(3, 3, 32, 32))
    assert seen == [17]


@pytest.mark.parametrize(
    "settings",
    [
        {"embed_cls": True},
        {"use_pad_mask": True, "no_causal_mask": True},
        {"block_type": "custom", "qk_norm": True},
    ],
)
def test_other_texts_are_as_the_library_has_them(settings: dict[str, Any]) -> None:
    """Their mask is a text's own, or they read more than one token, or differ inside."""
    tower, ids = text_tower(**settings), texts()
    assert torch.equal(tower({"input_ids": ids}), tower.model(ids))


@pytest.mark.parametrize(
    "settings",
    [{"pool_type": "avg"}, {"attentional_pool": True}, {"block_type": "custom", "qk_norm": True}],
)
def test_other_images_are_as_the_library_has_them(settings: dict[str, Any]) -> None:
    tower, images = image_tower(**settings), torch.randn(3, 3, 32, 32)
    assert torch.equal(tower(images), tower.model(images))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda tower: pickle.loads(pickle.dumps(tower))])
def test_a_copy_computes_with_its_own_weights(way: Any) -> None:
    tower, images = image_tower(), torch.randn(3, 3, 32, 32)
    copied = way(tower)
    before = tower(images)
    assert torch.equal(copied(images), before)
    with torch.no_grad():
        for value in last_of(copied).parameters():
            value.zero_()
    assert torch.equal(tower(images), before)
    assert not torch.allclose(copied(images), before, atol=1e-3)


def test_activations_computed_again_are_of_one_token_too() -> None:
    """Checkpointing runs the block once more, within the way back."""
    tower = image_tower().train()
    images = torch.randn(3, 3, 32, 32)
    _, expected = features_and_gradients(tower, tower.model, images)
    tower.model.set_grad_checkpointing(True)
    _, gradients = features_and_gradients(tower, tower.model, images)
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, other)
