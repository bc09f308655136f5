"""Towers that a model folder leaves out because a package or a hub has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipkit.errors import ClipkitError, ModelError
from clipkit.models.dual_encoder import Base, DualEncoder, state_digest
from clipkit.models.starter import PackagedWeights, load_packaged
from clipkit.models.structure import TOWERS, TowerName

HUBS = ("open_clip", "hf", "towers")
"""What names of models begin with whose weights `clipkit.load` can fetch again."""


def refer(
    model: DualEncoder, architecture: dict[str, Any], state: dict[str, Tensor], base: Base
) -> None:
    """Take out of a state the towers that can be had from elsewhere, and note where from.

    Args:
        model: what the state is of.
        architecture: of the model; the notes are made in it.
        state: loses the tensors of those towers.
        base: "inside" leaves all in.
    """
    name = _hub_name(model)
    known = name or (architecture.get("base") or {}).get("name")
    architecture["base"] = {"name": known} if known else None
    left: list[TowerName] = []
    for tower in TOWERS:
        weights = architecture.get(tower, {}).pop("weights", None)
        digest = state_digest(_part(state, f"{tower}.model."))
        if base == "reference" and weights and digest == weights["state_sha256"]:
            architecture[tower]["weights"] = weights
            _drop(state, tower)
        else:
            left.append(tower)
    if base == "inside" or not name or not left:
        return
    try:
        published = _load_base(name).state_dict()
    except ClipkitError:
        return  # out of reach now: what is inside cannot be lost
    for tower in left:
        digest = state_digest(_part(state, f"{tower}."))
        if digest == state_digest(_part(published, f"{tower}.")):
            architecture["base"][tower] = digest
            _drop(state, tower)


def _hub_name(model: DualEncoder) -> str | None:
    """Return the name by which a hub has what this model started from."""
    found = (model.architecture.get("base") or {}).get("name") or model.name
    kind, colon, rest = found.partition(":")
    if not colon or kind not in HUBS:
        return None
    bare = rest.partition("?")[0]
    places = [bare, *bare.split("+"), bare.partition("/")[2]]
    return None if "@random" in bare or any(Path(p).exists() for p in places if p) else found


def _load_base(name: str) -> DualEncoder:
    """Load what a model started from."""
    from clipkit.models import load

    return load(name)


def fill(
    model: DualEncoder, architecture: dict[str, Any], state: dict[str, Tensor], weights_file: Path
) -> None:
    """Load stored weights, and those that packages and hubs have.

    Args:
        model: whose weights are filled.
        architecture: with the notes that `refer` made.
        state: the stored weights.
        weights_file: where they are from, for errors.

    Raises:
        ModelError: weights are missing, out of reach, of other shapes or changed.
    """
    root = weights_file.parent
    own = model.state_dict()
    for tower in TOWERS:
        weights = dict(architecture.get(tower, {}).get("weights") or {})
        if weights:
            digest = weights.pop("state_sha256")
            part = getattr(model, tower).model
            load_packaged(part, PackagedWeights(**weights))
            if state_digest(part) != digest:
                raise ModelError(f"{root}: the {tower} that {weights['package']} gives has changed")
            _drop(own, tower)
    base = architecture.get("base") or {}
    referred = [tower for tower in TOWERS if tower in base]
    if referred:
        try:
            published = _load_base(base["name"]).state_dict()
        except ClipkitError as error:
            raise ModelError(f"{root}: its base {base['name']} cannot be loaded: {error}") from None
        for tower in referred:
            part = _part(published, f"{tower}.")
            if state_digest(part) != base[tower]:
                raise ModelError(
                    f"{root}: the {tower} of {base['name']} is not what this model was trained from"
                )
            copy_state(_part(own, f"{tower}."), part, base["name"])
            _drop(own, tower)
    copy_state(own, state, str(weights_file))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors."""
    if not path.is_file():
        raise ModelError(f"{path.parent} lacks its file {path.name}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None
    return tensors


@torch.no_grad()
def copy_state(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], where: str) -> None:
    """Fill tensors from others of the same names and shapes."""
    if set(own) != set(stored):
        odd = sorted(set(own) ^ set(stored))
        raise ModelError(
            f"{where} does not fit its description: {odd[0]} (and {len(odd) - 1} more)"
        )
    for name, value in stored.items():
        if own[name].shape != value.shape:
            raise ModelError(
                f"{where}: {name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
            )
        own[name].copy_(value)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _drop(state: dict[str, Tensor], tower: str) -> None:
    """Take a tower out of a state."""
    for name in [name for name in state if name.startswith(f"{tower}.")]:
        del state[name]
