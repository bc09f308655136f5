"""The self-describing model folder: written whole or not at all, checked before it is used.

    clipkit.json        format, architecture, preprocessing, tokenizer, similarity, data, sha256s
    model.safetensors   what was trained, and every tower that no installed package carries
    tokenizer/          the tokenizer's files

A tower whose weights still equal those of an installed package is stored by reference: the package,
the file in it, and the sha256 of both. Nothing in a folder is ever run: no pickle, no remote code.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.models.paired_towers import rebuild_paired_towers
from clipkit.models.starter import PackagedWeights, load_packaged
from clipkit.models.tokenizers import LOADERS as TOKENIZERS
from clipkit.packages import file_sha256
from clipkit.types import Preprocessing

FORMAT = 1
DESCRIPTION = "clipkit.json"
WEIGHTS = "model.safetensors"
TOWERS = ("image_tower", "text_tower")
FAMILIES: dict[str, Callable[..., DualEncoder]] = {"paired_towers": rebuild_paired_towers}
"""What builds a model of each kind from its architecture, with random weights."""

T = TypeVar("T")


def save_model(
    model: DualEncoder, folder: str | Path, *, training_data: Sequence[str] = ()
) -> None:
    """Write a model folder; an older one at the same place is replaced only once this one is whole.

    Args:
        model: what to save; its weights are written in the precision they have.
        folder: where to; an existing folder must be a model folder or empty.
        training_data: fingerprints of the data sets it was trained on.

    Raises:
        ModelError: when `folder` exists and holds something else.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()) and not (target / DESCRIPTION).is_file():
        raise ModelError(f"{target} holds files that are no clipkit model: choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(model, staging, training_data)
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


def _write(model: DualEncoder, folder: Path, training_data: Sequence[str]) -> None:
    """Write the three parts of a model folder."""
    architecture = json.loads(json.dumps(model.architecture))
    state = dict(model.state_dict())
    for tower in TOWERS:
        weights = architecture[tower].get("weights")
        if weights and state_digest(getattr(model, tower).model) == weights["state_sha256"]:
            state = {name: value for name, value in state.items() if not name.startswith(tower)}
        else:
            architecture[tower].pop("weights", None)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    tokenizer = model.tokenizer.save(folder / "tokenizer")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    description = {
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
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_model(folder: str | Path) -> DualEncoder:
    """Read a model folder that `save_model` wrote, in evaluation mode on the CPU.

    Raises:
        ModelError: when the folder is no model folder, is of a later format, or a file in it is
            missing or changed.
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
    try:
        state = load_file(root / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(f"{root / WEIGHTS} cannot be read as safetensors: {error}") from None
    _fill(model, architecture, state, root)
    return model.eval()


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
    """Load stored weights, and those that packages carry."""
    expected = set(model.state_dict())
    for tower in TOWERS:
        weights = dict(architecture[tower].get("weights") or {})
        if weights:
            digest = weights.pop("state_sha256")
            part = getattr(model, tower).model
            load_packaged(part, PackagedWeights(**weights))
            if state_digest(part) != digest:
                raise ModelError(f"{root}: the {tower} that {weights['package']} gives has changed")
            expected = {name for name in expected if not name.startswith(tower)}
    if expected != set(state):
        odd = sorted(expected ^ set(state))
        raise ModelError(
            f"{root / WEIGHTS} does not fit its description: {odd[0]} (and {len(odd) - 1} more)"
        )
    with torch.no_grad():
        own = model.state_dict()
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise ModelError(
                    f"{root / WEIGHTS}: {name} is {tuple(value.shape)},"
                    f" not {tuple(own[name].shape)}"
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
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks its file {name}")
        if file_sha256(folder / name) != digest:
            raise ModelError(
                f"{folder / name} was changed after the model was saved (sha256 differs)"
            )
    return description
