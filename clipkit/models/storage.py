"""The self-describing model folder: written whole or not at all, checked before it is used.

    clipkit.json          format, architecture, preprocessing, tokenizer, similarity, data, sha256s
    model.safetensors     what was trained, and every tower that cannot be had from elsewhere
    adapters.safetensors  LoRA adapters, where there are some
    tokenizer/            the tokenizer's files

A tower whose weights still equal those of an installed package is stored by reference: the package,
the file in it, and the sha256 of both. One that equals what `clipkit.load` gives for a name of a
hub is stored as that name and the sha256 of its weights; `base="inside"` stores them all the same.
Nothing in a folder is ever run: no pickle, no remote code.
"""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clipkit.errors import ClipkitError, ModelError
from clipkit.models.dual_encoder import Adapters, Base, DualEncoder, state_digest
from clipkit.models.from_open_clip import rebuild_open_clip
from clipkit.models.from_transformers import rebuild_transformers
from clipkit.models.lora import attach_lora, merge_lora, split_state
from clipkit.models.open_clip_tokenizers import OPEN_CLIP_LOADERS
from clipkit.models.paired_towers import rebuild_paired_towers
from clipkit.models.starter import PackagedWeights, load_packaged
from clipkit.models.structure import TOWERS
from clipkit.models.tokenizers import LOADERS, Tokenizer
from clipkit.packages import file_sha256
from clipkit.types import Preprocessing

FORMAT = 1
DESCRIPTION = "clipkit.json"
WEIGHTS = "model.safetensors"
ADAPTERS = "adapters.safetensors"
HUBS = ("open_clip", "hf", "towers")
"""What names of models begin with whose weights `clipkit.load` can fetch again."""

FAMILIES: dict[str, Callable[..., DualEncoder]] = {
    "paired_towers": rebuild_paired_towers,
    "open_clip": rebuild_open_clip,
    "transformers": rebuild_transformers,
}
"""What builds a model of each kind from its architecture; its weights are yet to be filled."""

TOKENIZERS: dict[str, Callable[[Path, Mapping[str, Any]], Tokenizer]] = {
    **LOADERS,
    **OPEN_CLIP_LOADERS,
}
"""How each kind of tokenizer is read from a model folder."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SaveSettings:
    """What a saved model holds.

    Attributes:
        base: "reference" for weights that a package or a hub has, "inside" for all weights.
        adapters: "alone" keeps LoRA adapters apart, "merged" folds them into the weights.
    """

    base: Base = "reference"
    adapters: Adapters = "alone"


def check_target(target: Path) -> None:
    """Check that a model can be saved in a place.

    Raises:
        ModelError: it is a file, or a folder that holds something else.
    """
    if target.is_file():
        raise ModelError(f"{target} is a file: name a folder for the model")
    if target.exists() and any(target.iterdir()) and not (target / DESCRIPTION).is_file():
        raise ModelError(f"{target} holds files that are no clipkit model: choose another folder")


def save_model(
    model: DualEncoder,
    folder: str | Path,
    *,
    training_data: Sequence[str] = (),
    base: Base = "reference",
    adapters: Adapters = "alone",
) -> None:
    """Write a model folder; an older one at the same place is replaced only once this one is whole.

    Args:
        model: what to save; its weights are written in the precision they have.
        folder: where to; an existing folder must be a model folder or empty.
        training_data: fingerprints of the data sets it was trained on.
        base: "reference" leaves out towers that a package has, or a hub by the model's name;
            "inside" writes them too.
        adapters: "alone" writes LoRA adapters beside the weights; "merged" folds them in, so that
            the saved model's features equal the model's within rounding.

    Raises:
        ModelError: when `folder` exists and holds something else, or the model was loaded in bf16:
            the bits that are gone could not be told from trained ones.
    """
    if model.tower_digests:
        raise ModelError(
            f"{model.name or 'the model'} was loaded with precision bf16 and cannot be saved:"
            " load it with precision float32"
        )
    if adapters == "merged":
        model = merge_lora(copy.deepcopy(model))
    target = Path(folder)
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(model, staging, training_data, base)
        staging.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / "model")
            staging.rename(target)
            shutil.rmtree(old)
        else:
            staging.rename(target)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def _write(model: DualEncoder, folder: Path, training_data: Sequence[str], base: Base) -> None:
    """Write the parts of a model folder."""
    architecture = json.loads(json.dumps(model.architecture))
    state, adapters = split_state(model)
    _refer(model, architecture, state, base)
    for name, tensors in ((WEIGHTS, state), (ADAPTERS, adapters)):
        if tensors or name == WEIGHTS:
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            (folder / name).write_bytes(save(whole))
    tokenizer = model.tokenizer.save(folder / "tokenizer")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    description: dict[str, Any] = {
        "format": FORMAT,
        "architecture": architecture,
        "preprocessing": asdict(model.preprocessing),
        "tokenizer": {
            "folder": "tokenizer",
            **tokenizer,
            "long_texts": model.long_texts,
        },
        "similarity": model.similarity,
        "fingerprint": model.fingerprint(),
        "training_data": list(training_data),
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
    }
    description["description_sha256"] = _description_sha256(description)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _description_sha256(description: Mapping[str, Any]) -> str:
    """Return the sha256 of a description, less its own."""
    rest = {key: value for key, value in description.items() if key != "description_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _refer(
    model: DualEncoder, architecture: dict[str, Any], state: dict[str, Tensor], base: Base
) -> None:
    """Take out of a state the towers that can be had from elsewhere, and note where from."""
    name = _hub_name(model)
    known = name or (architecture.get("base") or {}).get("name")
    architecture["base"] = {"name": known} if known else None
    left = []
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


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _drop(state: dict[str, Tensor], tower: str) -> None:
    """Take a tower out of a state."""
    for name in [name for name in state if name.startswith(f"{tower}.")]:
        del state[name]


def load_model(folder: str | Path) -> DualEncoder:
    """Read a model folder that `save_model` wrote, in evaluation mode on the CPU.

    Raises:
        ModelError: when the folder is no model folder, is of a later format, a file in it is
            missing or changed, or the weights it refers to are out of reach or have changed.
        MissingExtraError: when a package that carries a tower's weights is not installed.
    """
    root = Path(folder)
    description = read_description(root)
    architecture = description["architecture"]
    settings = description["tokenizer"]
    preprocessing = description["preprocessing"]
    for key in ("mean", "std"):
        preprocessing[key] = tuple(preprocessing[key])
    load_tokenizer = _known(TOKENIZERS, settings.get("kind", "transformers"), root)
    model = _known(FAMILIES, architecture.get("kind"), root)(
        architecture,
        tokenizer=load_tokenizer(root / settings["folder"], settings),
        preprocessing=Preprocessing(**preprocessing),
        similarity=description["similarity"],
    )
    model.name = str(root.resolve())
    model.architecture = architecture
    model.long_texts = settings.get("long_texts", "head")
    _fill(model, architecture, _read(root / WEIGHTS), root)
    if "lora" in architecture:
        _adapt(model, architecture["lora"], root)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors."""
    if not path.is_file():
        raise ModelError(f"{path.parent} lacks its file {path.name}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None
    return tensors


def _known(table: Mapping[str, T], kind: object, root: Path) -> T:
    """Return what a description's kind stands for."""
    if kind not in table:
        raise ModelError(
            f"{root / DESCRIPTION} is of kind {kind!r}; this clipkit reads {', '.join(table)}"
        )
    return table[str(kind)]


def _fill(
    model: DualEncoder, architecture: dict[str, Any], state: dict[str, Tensor], root: Path
) -> None:
    """Load stored weights, and those that packages and hubs have."""
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
            _copy(_part(own, f"{tower}."), part, base["name"])
            _drop(own, tower)
    _copy(own, state, str(root / WEIGHTS))


def _adapt(model: DualEncoder, settings: dict[str, Any], root: Path) -> None:
    """Put the adapters of a model folder on."""
    adapters = _read(root / ADAPTERS)
    try:
        attach_lora(model, settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{root / DESCRIPTION}: its LoRA settings are damaged: {error!r}"
        ) from None
    _copy(split_state(model)[1], adapters, str(root / ADAPTERS))


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], where: str) -> None:
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


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `clipkit.json` and the sha256 of every file it lists."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder} is no clipkit model folder: it has no {DESCRIPTION}")
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        found, files = description["format"], description["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error!r}") from None
    if found != FORMAT:
        raise ModelError(f"{path} has format {found!r}; this clipkit reads format {FORMAT}")
    digest = description.get("description_sha256")
    if digest is not None and digest != _description_sha256(description):
        raise ModelError(f"{path} was changed after the model was saved (sha256 differs)")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks its file {name}")
        if file_sha256(folder / name) != digest:
            raise ModelError(
                f"{folder / name} was changed after the model was saved (sha256 differs)"
            )
    return description
