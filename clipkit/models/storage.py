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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import Adapters, Base, DualEncoder
from clipkit.models.from_open_clip import rebuild_open_clip
from clipkit.models.from_transformers import rebuild_transformers
from clipkit.models.lora import attach_lora, merge_lora, split_state
from clipkit.models.open_clip_tokenizers import OPEN_CLIP_LOADERS
from clipkit.models.paired_towers import rebuild_paired_towers
from clipkit.models.references import copy_state, fill, read_tensors, refer
from clipkit.models.tokenizers import LOADERS, Tokenizer
from clipkit.packages import file_sha256, new_folder
from clipkit.types import Preprocessing

FORMAT = 1
DESCRIPTION = "clipkit.json"
WEIGHTS = "model.safetensors"
ADAPTERS = "adapters.safetensors"

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
    with new_folder(target) as staging:
        _write(model, staging, training_data, base)


def _write(model: DualEncoder, folder: Path, training_data: Sequence[str], base: Base) -> None:
    """Write the parts of a model folder."""
    architecture = json.loads(json.dumps(model.architecture))
    state, adapters = split_state(model)
    refer(model, architecture, state, base)
    for name, tensors in ((WEIGHTS, state), (ADAPTERS, adapters)):
        if tensors or name == WEIGHTS:
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            (folder / name).write_bytes(save(whole))
    tokenizer = model.tokenizer.save(folder / "tokenizer")
    write_description(
        folder,
        {
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
        },
    )


def write_description(folder: Path, content: Mapping[str, Any]) -> None:
    """Write what a folder holds, with the sha256 of every file that is in it."""
    description: dict[str, Any] = {"format": FORMAT, **content, "files": list_files(folder)}
    description["description_sha256"] = _description_sha256(description)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _description_sha256(description: Mapping[str, Any]) -> str:
    """Return the sha256 of a description, less its own."""
    rest = {key: value for key, value in description.items() if key != "description_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_model(folder: str | Path) -> DualEncoder:
    """Read a model folder that `save_model` wrote, in evaluation mode on the CPU.

    Raises:
        ModelError: when the folder is no model folder, is of a later format, a file in it is
            missing or changed, or the weights it refers to are out of reach or have changed.
        MissingExtraError: when a package that carries a tower's weights is not installed.
    """
    root = Path(folder)
    description = _read_json(root)
    with _checking(root, description["files"]):
        return _build(root, description)


def _build(root: Path, description: Mapping[str, Any]) -> DualEncoder:
    """Return the model of a folder."""
    if "tokenizer" not in description:
        raise ModelError(
            f"{root} is the image side of a classifier: ZeroShotClassifier.load reads the folder"
            " that it lies in"
        )
    architecture = description["architecture"]
    settings = description["tokenizer"]
    load_tokenizer = known(TOKENIZERS, settings.get("kind", "transformers"), root)
    model = known(FAMILIES, architecture.get("kind"), root)(
        architecture,
        tokenizer=load_tokenizer(root / settings["folder"], settings),
        preprocessing=read_preprocessing(description),
        similarity=description["similarity"],
    )
    model.name = str(root.resolve())
    model.architecture = architecture
    model.long_texts = settings.get("long_texts", "head")
    fill(model, architecture, read_tensors(root / WEIGHTS), root / WEIGHTS)
    if "lora" in architecture:
        _adapt(model, architecture["lora"], root)
    return model.eval()


def read_preprocessing(description: Mapping[str, Any]) -> Preprocessing:
    """Return what a description says of preprocessing."""
    settings = dict(description["preprocessing"])
    for key in ("mean", "std"):
        settings[key] = tuple(settings[key])
    return Preprocessing(**settings)


def known(table: Mapping[str, T], kind: object, root: Path) -> T:
    """Return what a description's kind stands for.

    Raises:
        ModelError: the table has none of that kind.
    """
    if kind not in table:
        raise ModelError(
            f"{root / DESCRIPTION} is of kind {kind!r}; this clipkit reads {', '.join(table)}"
        )
    return table[str(kind)]


def _adapt(model: DualEncoder, settings: dict[str, Any], root: Path) -> None:
    """Put the adapters of a model folder on."""
    adapters = read_tensors(root / ADAPTERS)
    try:
        attach_lora(model, settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{root / DESCRIPTION}: its LoRA settings are damaged: {error!r}"
        ) from None
    copy_state(split_state(model)[1], adapters, str(root / ADAPTERS))


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `clipkit.json` and the sha256 of every file it lists."""
    description = _read_json(folder)
    check_files(folder, description["files"])
    return description


def _read_json(folder: Path) -> dict[str, Any]:
    """Read and check `clipkit.json`, but none of the files it lists."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder} is no clipkit model folder: it has no {DESCRIPTION}")
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        found, _ = description["format"], description["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error!r}") from None
    if found != FORMAT:
        raise ModelError(f"{path} has format {found!r}; this clipkit reads format {FORMAT}")
    digest = description.get("description_sha256")
    if digest is not None and digest != _description_sha256(description):
        raise ModelError(f"{path} was changed after it was saved (sha256 differs)")
    return description


@contextmanager
def _checking(folder: Path, files: Mapping[str, str]) -> Iterator[None]:
    """Do what `check_files` does in a thread, while the files are read.

    What is wrong with them comes before what the reading of them found.
    """
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check_files, folder, files)
        try:
            yield
        finally:
            checked.result()


def list_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ModelError for a file that is missing or not what `list_files` found."""
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks its file {name}")
        if file_sha256(folder / name) != digest:
            raise ModelError(f"{folder / name} was changed after it was saved (sha256 differs)")
