"""What a name of an open_clip model stands for, and its weights, read as data: no code runs."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipkit.errors import ModelError, did_you_mean

Activation = Literal["gelu", "quick_gelu"]

CONFIG = "open_clip_config.json"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the names of weights."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a name of an open_clip model stands for.

    Attributes:
        name: how messages call it.
        config: the model's configuration as open_clip has it; `quick_gelu` is in it.
        preprocess: how images are prepared, under open_clip's names.
        weights: the file, or none for random weights.
        tokenizer: where a tokenizer of transformers comes from, a folder or a name on the hub.
        published: the weights are of a tag of open_clip's, which fits them to the architecture.
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path | None
    tokenizer: str
    published: bool = False


def find_source(spec: str, activation: Activation | None = None) -> Source:
    """Find what a name stands for; see `load_open_clip` for the names there are.

    Raises:
        ModelError: when it stands for nothing, or for something that is not settled.
    """
    import open_clip

    text, activation = _split_activation(spec, activation)
    if text.startswith("hf-hub:"):
        return _from_hub(text, activation)
    if text.endswith("@random"):
        return _random(text, activation)
    architecture, slash, rest = text.partition("/")
    if architecture in open_clip.list_models():
        if slash and open_clip.get_pretrained_cfg(architecture, rest):
            return _from_tag(architecture, rest, activation)
        path = Path(rest).expanduser()
        if slash and path.is_file():
            return _from_file(architecture, path, activation)
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        choice = f"{architecture} has the tags {', '.join(tags)}" if tags else "it has no tags"
        if not slash:
            raise ModelError(
                f"open_clip:{text} names no weights: add /TAG, /FILE, or @random for random ones;"
                f" {choice}"
            )
        if path.suffix in SUFFIXES:
            raise ModelError(f"open_clip:{text}: there is no file {path}")
        hint = did_you_mean(rest, tags) or f"; {choice}"
        raise ModelError(f"open_clip has no weights {rest!r} of {architecture}{hint}")
    path = Path(text.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return _from_folder(path, _only_weights(path), activation)
    if path.is_file() and (path.parent / CONFIG).is_file():
        return _from_folder(path.parent, path, activation)
    if path.is_file():
        raise ModelError(
            f"{path} does not say its architecture: write open_clip:ARCHITECTURE/{path}, or put"
            f" its {CONFIG} beside it"
        )
    raise ModelError(unknown_architecture(architecture))


def unknown_architecture(name: str) -> str:
    """Say that open_clip does not know an architecture, and which one may be meant."""
    import open_clip

    hint = did_you_mean(name, open_clip.list_models())
    return f"open_clip has no architecture {name!r}{hint if 'mean' in hint else ''}"


def _split_activation(spec: str, activation: Activation | None) -> tuple[str, Activation | None]:
    """Take `?activation=quick_gelu` off a name."""
    text, mark, query = spec.partition("?")
    if not mark:
        return text, activation
    key, _, value = query.partition("=")
    if key != "activation" or value not in ("gelu", "quick_gelu"):
        raise ModelError(
            f"open_clip:{spec}: after ? comes activation=gelu or activation=quick_gelu,"
            f" not {query!r}"
        )
    if activation not in (None, value):
        raise ModelError(f"open_clip:{spec} contradicts activation={activation!r}")
    return text, "quick_gelu" if value == "quick_gelu" else "gelu"


def _settled(name: str, quick: bool, activation: Activation | None) -> bool:
    """Return whether the activation is QuickGELU, once it is sure that nobody asks for another."""
    own = "quick_gelu" if quick else "gelu"
    if activation not in (None, own):
        raise ModelError(f"{name} is a model with {own}: it cannot be read with {activation}")
    return quick


def _from_tag(architecture: str, tag: str, activation: Activation | None) -> Source:
    """Take open_clip's own weights; the tag decides activation and preprocessing."""
    import open_clip

    found = open_clip.get_pretrained_cfg(architecture, tag)
    config = open_clip.get_model_config(architecture)
    name = f"open_clip:{architecture}/{tag}"
    quick = bool(config.get("quick_gelu")) or bool(found.get("quick_gelu"))
    try:
        weights = open_clip.download_pretrained(found)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name}: its weights cannot be fetched: {reason}") from None
    return Source(
        name=name,
        config={**config, "quick_gelu": _settled(name, quick, activation)},
        preprocess=_preprocess(found),
        weights=Path(weights),
        tokenizer=_tokenizer_name(config),
        published=True,
    )


def _from_file(architecture: str, path: Path, activation: Activation | None) -> Source:
    """Take a file of weights; its activation must be known from elsewhere."""
    import open_clip

    if (path.parent / CONFIG).is_file():
        return _from_folder(path.parent, path, activation)
    config = open_clip.get_model_config(architecture)
    quick = bool(config.get("quick_gelu"))
    if quick:
        _settled(architecture, quick, activation)
    elif activation is None and not _has_one_activation(architecture):
        raise ModelError(
            f"{path} does not say whether it was trained with GELU or QuickGELU, and {architecture}"
            f" exists with both: give activation='gelu' or 'quick_gelu', or write"
            f" open_clip:{architecture}/{path}?activation=quick_gelu"
        )
    return Source(
        name=str(path),
        config={**config, "quick_gelu": quick or activation == "quick_gelu"},
        preprocess=_agreed_preprocess(architecture),
        weights=path,
        tokenizer=_tokenizer_name(config),
    )


def _random(text: str, activation: Activation | None) -> Source:
    """Take an architecture with random weights."""
    import open_clip

    architecture = text.removesuffix("@random")
    if architecture not in open_clip.list_models():
        raise ModelError(unknown_architecture(architecture))
    config = open_clip.get_model_config(architecture)
    quick = bool(config.get("quick_gelu"))
    if quick:
        _settled(architecture, quick, activation)
    return Source(
        name=f"open_clip:{text}",
        config={**config, "quick_gelu": quick or activation == "quick_gelu"},
        preprocess=_agreed_preprocess(architecture),
        weights=None,
        tokenizer=_tokenizer_name(config),
    )


def _from_hub(text: str, activation: Activation | None) -> Source:
    """Take a repository on the hub in open_clip's layout."""
    from open_clip.pretrained import download_pretrained_from_hf

    repository = text.removeprefix("hf-hub:")
    try:
        config = Path(download_pretrained_from_hf(repository, filename=CONFIG))
        weights = Path(download_pretrained_from_hf(repository))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"open_clip:{text} cannot be fetched: {reason}") from None
    return _described(f"open_clip:{text}", config, weights, "", activation)


def _from_folder(folder: Path, weights: Path, activation: Activation | None) -> Source:
    """Take a folder in open_clip's layout; its tokenizer is in it, if there is one."""
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")
    tokenizer = str(folder) if any((folder / name).is_file() for name in files) else ""
    return _described(str(folder), folder / CONFIG, weights, tokenizer, activation)


def _described(
    name: str, path: Path, weights: Path, tokenizer: str, activation: Activation | None
) -> Source:
    """Read a description in open_clip's layout."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config, preprocess = description["model_cfg"], description.get("preprocess_cfg") or {}
        quick = bool(config.get("quick_gelu"))
        source = tokenizer or _tokenizer_name(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no description of an open_clip model: {error!r}") from None
    return Source(
        name=name,
        config={**config, "quick_gelu": _settled(name, quick, activation)},
        preprocess=_preprocess(preprocess),
        weights=weights,
        tokenizer=source,
    )


def _only_weights(folder: Path) -> Path:
    """Return the file of weights in a folder."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} is no folder of an open_clip model: it has no {CONFIG}")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
    for name in PREFERRED:
        if name in found:
            return found[name]
    if len(found) != 1:
        raise ModelError(
            f"{folder} holds {', '.join(found)}: name the file"
            if found
            else f"{folder} holds no weights: no file ends in {', '.join(SUFFIXES)}"
        )
    return next(iter(found.values()))


def _tokenizer_name(config: Mapping[str, Any]) -> str:
    return str(config["text_cfg"].get("hf_tokenizer_name") or "")


def _preprocess(overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over open_clip's defaults."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged: dict[str, Any] = merge_preprocess_dict(asdict(PreprocessCfg()), dict(overlay))
    return merged


def _agreed_preprocess(architecture: str) -> dict[str, Any]:
    """Return how the images of all tags of an architecture are prepared, or the defaults."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    ways = [_preprocess(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags]
    return ways[0] if ways and all(way == ways[0] for way in ways) else _preprocess({})


def _has_one_activation(architecture: str) -> bool:
    """Whether no other configuration, and no tag, has this architecture with QuickGELU."""
    import open_clip

    own = {**open_clip.get_model_config(architecture), "quick_gelu": True}
    twin = any(open_clip.get_model_config(other) == own for other in open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    quick = any(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu") for tag in tags)
    return not twin and not quick


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of weights by their names; nothing in it is run.

    Raises:
        ModelError: when the file holds code, is damaged, or holds something else.
    """
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: weights are read from files that end in {', '.join(SUFFIXES)}")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (SafetensorError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ModelError(f"{path} cannot be read as weights: {reason}") from None
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no weights by their names, but {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{path} holds no weights alone: {name!r} is {type(value).__name__}")
    state = dict(content)
    while prefix := next((w for w in WRAPPERS if all(n.startswith(w) for n in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _unpickle(path: Path) -> object:
    """Read what torch.save wrote, of tensors and plain containers alone."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
            raise ModelError(
                f"{path} is a TorchScript archive, which holds code to run and not weights alone:"
                " save its state_dict() from a machine you trust, and load that"
            )
    try:
        with warnings.catch_warnings():  # of pickles that torch.save did not write
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL (\S+)", str(error))
        what = f" (it calls {called.group(1)})" if called else ""
        raise ModelError(
            f"{path} holds more than weights{what}, and reading that could run any code: save its"
            " state_dict alone, best as safetensors"
        ) from None
