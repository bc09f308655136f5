"""Patch dropout: in training an image tower sees a random share of its patches (FLIP)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.structure import find_blocks

NAME = "random_patches"
"""Of the module below the image tower, whose own modules have other names."""
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What towers raise that count on all of their patches."""
SAME = 1e-4
"""How far, of the largest feature, the order of the patches may move features by rounding."""


class PatchDropout(nn.Module):
    """Keeps a random choice of an image's patch tokens, in training; another for each image.

    It has no parameters and no buffers, so that nothing of it is saved. It draws from the default
    generator of the device that the tokens are on.

    Args:
        prefix: how many tokens in front are no patches, and always kept: class and register tokens.

    Attributes:
        share: of the patches that is dropped; of n patches round(n * (1 - share)) are kept, and at
            least one.
    """

    def __init__(self, prefix: int) -> None:
        """Drop nothing yet."""
        super().__init__()
        self.prefix = prefix
        self.share = 0.0

    def choose(self, batch: int, patches: int, device: torch.device) -> Int[Tensor, "b k"] | None:
        """Return the places of the patches that are kept."""
        if not self.training or not self.share:
            return None
        kept = max(1, round(patches * (1 - self.share)))
        return torch.rand(batch, patches, device=device).argsort(1)[:, :kept]

    def forward(
        self, tokens: Float[Tensor, "b n width"]
    ) -> tuple[Float[Tensor, "b m width"], Int[Tensor, "b k"] | None]:
        """Return the tokens that are kept and the places of the patches, as timm's modules do."""
        kept = self.choose(tokens.shape[0], tokens.shape[1] - self.prefix, tokens.device)
        if kept is None:
            return tokens, None
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        places = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        return torch.cat([prefix, patches.gather(1, places)], dim=1), kept

    def before_block(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Drop tokens on their way into a block: a forward pre-hook."""
        return _replace_first(args, kwargs, lambda tokens: self(tokens)[0])


class _Chosen(PatchDropout):
    """Keeps patches that were chosen before, in training or not."""

    def __init__(self, prefix: int, kept: Int[Tensor, " k"]) -> None:
        super().__init__(prefix)
        self.kept = kept

    def choose(self, batch: int, patches: int, device: torch.device) -> Int[Tensor, "b k"] | None:
        return self.kept.to(device).expand(batch, -1)


def set_patch_dropout(model: DualEncoder, share: float) -> None:
    """Drop a random share of the patches in training (FLIP, https://arxiv.org/abs/2212.00794).

    The image tower's blocks compute on the tokens that are kept, each with its own position, and on
    all class and register tokens. That a tower can do so is found out by running it: on half of its
    patches, and on the same ones in another order. Nothing changes in evaluation mode, in a frozen
    tower, in the fingerprint or in what is saved.

    Args:
        model: changed in place.
        share: of the patches that is dropped; 0 for none.

    Raises:
        ConfigError: when the share is not in [0, 1), or the image tower has no patch tokens or
            needs all of them, as EfficientNet, ResNet and Swin do.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"patch_dropout: {share} is not a share from 0 up to 1")
    tower = model.image_tower
    there = getattr(tower, NAME, None)
    if there is None and share:
        prefix, patches = _count_tokens(model)
        install = _find_place(model, prefix, patches) if patches > 1 else None
        if install is None:
            kind = type(getattr(tower, "model", tower)).__name__
            raise ConfigError(
                f"patch_dropout: {share} needs an image tower that can do with some of its patch"
                f" tokens, such as a ViT, which {kind} cannot: write 0"
            )
        there = PatchDropout(prefix)
        install(there)
        tower.add_module(NAME, there)
    if isinstance(there, PatchDropout):
        there.share = share
        model.train(model.training)


Undo = Callable[[], None]
Install = Callable[[PatchDropout], Undo]


def _find_place(model: DualEncoder, prefix: int, patches: int) -> Install | None:
    """Return what puts patch dropout where it works: before the blocks, or where timm has it."""
    some = torch.arange(0, patches, 2)
    whole = _features(model)
    for install in _places(model.image_tower):
        found = []
        for kept in (some, some.flip(0)):
            undo = install(_Chosen(prefix, kept))
            try:
                found.append(_features(model))
            except REFUSALS:
                break
            finally:
                undo()
        if len(found) == 2 and not torch.equal(found[0], whole):
            far = float((found[0] - found[1]).abs().max() / whole.abs().max())
            if far < SAME:
                return install
    return None


def _places(tower: nn.Module) -> list[Install]:
    """Return what puts patch dropout into each place where it may work.

    Where rotary positions are handed to each block, they have to follow the tokens that are kept:
    timm's towers do that with what their `patch_drop` returns, which is `None` as long as unused.
    """

    def before_blocks(dropout: PatchDropout) -> Undo:
        block = find_blocks(tower)[0][1]
        return block.register_forward_pre_hook(dropout.before_block, with_kwargs=True).remove

    def own(owner: nn.Module) -> Install:
        def install(dropout: PatchDropout) -> Undo:
            setattr(owner, "patch_drop", dropout)  # noqa: B010
            return lambda: setattr(owner, "patch_drop", None)

        return install

    owners = [module for module in tower.modules() if getattr(module, "patch_drop", module) is None]
    return [before_blocks, *map(own, owners)]


def _count_tokens(model: DualEncoder) -> tuple[int, int]:
    """Return how many tokens enter the first block that are no patches, and how many that are.

    Class and register tokens are the same whatever the picture is, and come first.
    """
    blocks = find_blocks(model.image_tower)
    seen: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.extend(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    if not blocks:
        return 0, 0
    handle = blocks[0][1].register_forward_pre_hook(see, with_kwargs=True)
    try:
        _features(model)
    finally:
        handle.remove()
    if not seen or seen[0].ndim != 3 or seen[0].shape[0] != 2:
        return 0, 0
    same = (seen[0][0] == seen[0][1]).all(-1)
    prefix = int(same.sum())
    return (prefix, len(same) - prefix) if same[:prefix].all() else (0, 0)


@torch.no_grad()
def _features(model: DualEncoder) -> Float[Tensor, "2 features"]:
    """Return what the image tower gives for two pictures, in evaluation mode."""
    size = model.preprocessing.size
    ramp = torch.linspace(-1, 1, 3 * size * size, device=model.device).reshape(3, size, size)
    was_training = model.training
    model.eval()
    try:
        features: Tensor = model.image_tower(torch.stack([ramp, -ramp.flip(1)]))
    finally:
        model.train(was_training)
    return features


def _replace_first(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change the first tensor of a call's arguments."""
    for at, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:at], change(value), *args[at + 1 :]), kwargs
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return args, {**kwargs, name: change(value)}
    return args, kwargs
