import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from transformers import BertTokenizerFast

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.patch_dropout import set_patch_dropout
from clipkit.models.structure import find_blocks
from clipkit.models.trainable import LastBlocks, set_trainable
from tests.models.small import small_model, transformers_model

Make = Callable[..., DualEncoder]
Build = Callable[[str], DualEncoder]

PREFIX = {"open_clip": 1, "test_vit": 1, "clip": 1, "siglip": 0, "eva": 1, "eva_mixed": 3}


@pytest.fixture
def build(make_model: Make, tokenizer: BertTokenizerFast, tmp_path: Path) -> Build:
    """Build a model whose image tower is a ViT of some kind."""

    def make(kind: str) -> DualEncoder:
        if kind in ("clip", "siglip"):
            return transformers_model(kind, tmp_path)
        if kind.startswith("eva"):
            return eva_model(make_model(), mixed=kind == "eva_mixed")
        return small_model(kind, make_model, tokenizer)

    return make


def eva_model(model: DualEncoder, *, mixed: bool) -> DualEncoder:
    """Give a model a small EVA, whose positions turn queries and keys in every block."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 2}
    options = {"rope_type": "mixed", "num_reg_tokens": 2} if mixed else {}
    tower = Eva(**sizes, num_classes=0, use_rot_pos_emb=True, **options)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.image_tower.model = tower
    return model.eval()


def pictures(model: DualEncoder, count: int = 3) -> Tensor:
    size = model.preprocessing.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def entering(model: DualEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what enters the first block, and the features."""
    seen: list[Tensor] = []

    def see(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.extend(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    block = find_blocks(model.image_tower)[0][1]
    handle = block.register_forward_pre_hook(see, with_kwargs=True)
    features: Tensor = model.image_tower(images)
    handle.remove()
    return seen[0], features


def from_blocks_on(kind: str, model: DualEncoder, tokens: Tensor, kept: list[int]) -> Tensor:
    """Run one image's tokens through the blocks and what comes after them."""
    tower: Any = model.image_tower.model
    result: Tensor
    if kind == "open_clip":
        result = tower._pool(tower.transformer(tokens))[0]
    elif kind == "test_vit":
        result = tower.forward_head(tower.norm(tower.blocks(tokens)))
    elif kind == "clip":
        result = tower.post_layernorm(tower.encoder(inputs_embeds=tokens).last_hidden_state[:, 0])
    elif kind == "siglip":
        hidden = tower.encoder(inputs_embeds=tokens).last_hidden_state
        result = tower.head(tower.post_layernorm(hidden))
    else:
        positions = tower.rope.get_embed()
        for at, block in enumerate(tower.blocks):
            own = positions[at] if kind == "eva_mixed" else positions
            tokens = block(tokens, rope=own[..., kept, :])
        result = tower.forward_head(tower.norm(tokens))
    return result


@pytest.mark.parametrize("kind", PREFIX)
def test_the_blocks_see_some_patches_each_with_its_own_position(kind: str, build: Build) -> None:
    model, prefix = build(kind), PREFIX[kind]
    images = pictures(model)
    full, _ = entering(model, images)
    patches = full.shape[1] - prefix
    set_patch_dropout(model, 0.75)
    model.train()
    tokens, features = entering(model, images)
    torch.testing.assert_close(tokens[:, :prefix], full[:, :prefix])
    choices = []
    model.eval()
    for image in range(len(images)):
        differences = tokens[image, prefix:, None] - full[image, None, prefix:]
        distances = differences.abs().amax(-1)
        assert distances.min(1).values.max() < 1e-5
        kept = distances.argmin(1).tolist()
        assert len(set(kept)) == len(kept) == patches // 4
        some = full[image : image + 1, [*range(prefix), *(prefix + at for at in kept)]]
        expected = from_blocks_on(kind, model, some, kept)
        torch.testing.assert_close(features[image : image + 1], expected, rtol=1e-4, atol=1e-5)
        choices.append(set(kept))
    assert choices[0] != choices[1]


@pytest.mark.parametrize("kind", PREFIX)
def test_a_random_state_replayed_gives_the_same_features(kind: str, build: Build) -> None:
    model = build(kind)
    images = pictures(model)
    before = torch.get_rng_state()
    set_patch_dropout(model, 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    state = torch.get_rng_state()
    first, second = model.image_tower(images), model.image_tower(images)
    torch.set_rng_state(state)
    assert torch.equal(model.image_tower(images), first)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("kind", PREFIX)
def test_nothing_else_changes(kind: str, build: Build) -> None:
    model = build(kind)
    images = pictures(model)
    with torch.no_grad():
        before = model.image_tower(images)
        names, fingerprint = list(model.state_dict()), model.fingerprint()
        set_patch_dropout(model, 0.5)
        assert not model.image_tower.training
        assert torch.equal(model.image_tower(images), before)
        assert list(model.state_dict()) == names
        assert model.fingerprint() == fingerprint
        model.train()
        assert not torch.allclose(model.image_tower(images), before)
        set_patch_dropout(model, 1e-6)  # all are kept
        torch.testing.assert_close(model.image_tower(images), before, rtol=1e-4, atol=1e-5)
        set_patch_dropout(model, 0.0)
        state = torch.get_rng_state()
        torch.testing.assert_close(model.image_tower(images), before)
        assert torch.equal(torch.get_rng_state(), state)


def test_what_is_saved_stays_the_same(build: Build, tmp_path: Path) -> None:
    model = build("test_vit")
    model.save(str(tmp_path / "before"))
    set_patch_dropout(model, 0.5)
    model.save(str(tmp_path / "after"))
    before, after = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}
        for name in ("before", "after")
        for files in [[path for path in (tmp_path / name).rglob("*") if path.is_file()]]
    )
    assert before == after


def test_set_again_it_drops_once(build: Build) -> None:
    model = build("open_clip")
    images = pictures(model)
    patches = entering(model, images)[0].shape[1] - 1
    model.train()
    for share in (0.75, 0.5, 0.0, 0.5, 0.999):
        set_patch_dropout(model, share)
        kept = max(1, round(patches * (1 - share)))
        assert entering(model, images)[0].shape[1] == 1 + kept


def test_a_copy_is_set_by_itself(build: Build) -> None:
    for kind in ("open_clip", "eva"):
        model = build(kind)
        set_patch_dropout(model, 0.5)
        copied = copy.deepcopy(model)
        set_patch_dropout(copied, 0.0)
        images = pictures(model)
        whole = model.image_tower(images)
        torch.testing.assert_close(copied.train().image_tower(images), whole)
        assert not torch.allclose(model.train().image_tower(images), whole)


@pytest.mark.parametrize("kind", ["open_clip", "eva"])
def test_a_frozen_tower_sees_everything(kind: str, build: Build) -> None:
    model = build(kind)
    images = pictures(model)
    whole = model.image_tower(images)
    set_patch_dropout(model, 0.5)
    set_trainable(model.train(), "text_tower")
    torch.testing.assert_close(model.image_tower(images), whole)
    set_trainable(model, LastBlocks(1))
    assert not torch.allclose(model.image_tower(images), whole)


def test_gradients_reach_the_embeddings(build: Build) -> None:
    for kind in ("test_vit", "eva"):
        model = build(kind)
        set_patch_dropout(model, 0.5)
        model.train().encode_image(pictures(model))[:, 0].sum().backward()
        tower: Any = model.image_tower.model
        assert tower.patch_embed.proj.weight.grad.abs().sum() > 0
        reached = tower.pos_embed.grad[0].abs().sum(1) > 0
        assert reached.any()


@pytest.mark.parametrize(
    "kind",
    ["open_clip_resnet", "test_resnet", "test_efficientnet", "test_vit_relpos", "align"],
)
def test_towers_that_need_every_patch_are_refused(kind: str, build: Build, tmp_path: Path) -> None:
    model = transformers_model(kind, tmp_path) if kind == "align" else build(kind)
    if kind == "test_vit_relpos":
        model.preprocessing = build("test_vit").preprocessing
    before = list(model.image_tower.named_modules())
    with pytest.raises(ConfigError, match=r"patch_dropout: 0\.5 needs .* such as a ViT, which"):
        set_patch_dropout(model, 0.5)
    assert list(model.image_tower.named_modules()) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.image_tower.modules())
    set_patch_dropout(model, 0.0)


class Ordered(nn.Module):
    """A tower of two blocks that takes any number of patches and counts on their order."""

    patch_drop: nn.Module | None = None

    def __init__(self, order: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        layers = [nn.TransformerEncoderLayer(16, 2, 16, batch_first=True) for _ in range(2)]
        self.layers = nn.ModuleList(layers)
        self.order = order

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.order(tokens).mean(1)


def test_a_tower_that_counts_on_the_order_of_patches_is_refused(model: DualEncoder) -> None:
    def ramp(tokens: Tensor) -> Tensor:
        return tokens * torch.arange(tokens.shape[1])[:, None]

    def fixed(tokens: Tensor) -> Tensor:
        return tokens.reshape(len(tokens), 16, 16)

    model.image_tower = Ordered(lambda tokens: tokens)
    set_patch_dropout(model, 0.5)
    for order in (ramp, fixed):  # nor does it ask for what timm would ask for
        model.image_tower = Ordered(order)
        with pytest.raises(ConfigError, match="which Ordered cannot"):
            set_patch_dropout(model, 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_what_is_no_share(share: float, model: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="is not a share from 0 up to 1"):
        set_patch_dropout(model, share)
