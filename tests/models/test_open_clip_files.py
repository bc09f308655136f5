import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipkit.errors import ModelError
from clipkit.models.open_clip_files import Activation, find_source, read_state
from clipkit.models.open_clip_tokenizers import CLEAN

STATE = {"a": torch.arange(3.0), "b.c": torch.ones(2, 2)}
DESCRIPTION: dict[str, Any] = {
    "model_cfg": {"embed_dim": 4, "quick_gelu": True, "vision_cfg": {}, "text_cfg": {}},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"},
}


class Malicious:
    """What a pickle can do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def described(folder: Path, *names: str, **changes: Any) -> Path:
    """Write a folder in open_clip's layout with files of weights."""
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({**DESCRIPTION, **changes}))
    for name in names:
        (folder / name).touch()
    return folder


def test_every_tag_has_its_activation_and_its_preprocessing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[Mapping[str, Any]] = []

    def fetch(tag: Mapping[str, Any]) -> str:
        fetched.append(tag)
        return "weights.safetensors"

    monkeypatch.setattr(open_clip, "download_pretrained", fetch)
    quick = 0
    for architecture, tag in open_clip.list_pretrained():
        source = find_source(f"{architecture}/{tag}")
        expected = open_clip.get_pretrained_cfg(architecture, tag)
        assert fetched.pop() == expected
        for key in ("mean", "std", "interpolation", "resize_mode"):
            assert source.preprocess[key] == expected[key]
        config = open_clip.get_model_config(architecture)
        assert source.config["quick_gelu"] == bool(
            expected.get("quick_gelu") or config.get("quick_gelu")
        )
        assert source.tokenizer == config["text_cfg"].get("hf_tokenizer_name", "")
        quick += source.config["quick_gelu"]
    assert quick > 50


def test_no_tokenizer_of_open_clip_cleans_in_an_unknown_way() -> None:
    for name in open_clip.list_models():
        options = open_clip.get_model_config(name)["text_cfg"].get("tokenizer_kwargs", {})
        assert set(options) <= {"clean", "strip_sep_token"}
        assert options.get("clean", "lower") in CLEAN


@pytest.mark.parametrize(
    ("architecture", "activation", "quick"),
    [
        ("ViT-B-32", "gelu", False),
        ("ViT-B-32", "quick_gelu", True),
        ("ViT-B-32-quickgelu", None, True),
        ("ViT-B-32-quickgelu", "quick_gelu", True),
        ("ViT-B-32-256", None, False),
        ("convnext_base", None, False),
        ("roberta-ViT-B-32", None, True),
        ("ViT-B-16-SigLIP", None, False),
    ],
)
def test_the_activation_of_a_file(
    tmp_path: Path, architecture: str, activation: Activation | None, quick: bool
) -> None:
    path = tmp_path / "weights.pt"
    path.touch()
    assert find_source(f"{architecture}/{path}", activation).config["quick_gelu"] is quick
    if activation:
        source = find_source(f"{architecture}/{path}?activation={activation}")
        assert source.config["quick_gelu"] is quick


@pytest.mark.parametrize("architecture", ["ViT-B-32", "RN50", "ViT-H-14-378", "ViT-L-14-worldwide"])
def test_a_file_whose_activation_cannot_be_known_is_refused(
    tmp_path: Path, architecture: str
) -> None:
    path = tmp_path / "weights.pt"
    path.touch()
    with pytest.raises(ModelError, match="whether it was trained with GELU") as caught:
        find_source(f"{architecture}/{path}")
    for word in ("activation='gelu'", f"open_clip:{architecture}/{path}?activation=quick_gelu"):
        assert word in str(caught.value)


def test_the_images_of_a_file_are_prepared_as_all_tags_have_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.touch()
    siglip = find_source(f"ViT-B-16-SigLIP/{path}").preprocess
    assert (siglip["mean"], siglip["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    clip = find_source(f"ViT-H-14/{path}", "gelu").preprocess  # its tags do not agree
    assert clip["resize_mode"] == "shortest"
    assert clip["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_a_description_beside_a_file_is_believed(tmp_path: Path) -> None:
    folder = described(tmp_path / "model", "epoch_1.pt", "epoch_2.pt")
    for spec in (f"ViT-B-32/{folder / 'epoch_2.pt'}", str(folder / "epoch_2.pt")):
        source = find_source(spec)
        assert source.weights == folder / "epoch_2.pt"
        assert source.config == DESCRIPTION["model_cfg"]
        assert source.preprocess["resize_mode"] == "squash"
    with pytest.raises(ModelError, match="with quick_gelu: it cannot be read with gelu"):
        find_source(str(folder / "epoch_2.pt"), "gelu")
    with pytest.raises(ModelError, match=r"holds epoch_1\.pt, epoch_2\.pt: name the file"):
        find_source(str(folder))


def test_a_folder_has_one_file_of_weights_or_open_clips_own(tmp_path: Path) -> None:
    folder = described(tmp_path / "model", "a.pt", "open_clip_model.safetensors")
    for spec in (str(folder), f"local-dir:{folder}"):
        assert find_source(spec).weights == folder / "open_clip_model.safetensors"
    with pytest.raises(ModelError, match="holds no weights"):
        find_source(str(described(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"it has no open_clip_config\.json"):
        find_source(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="is no description of an open_clip model"):
        find_source(str(described(tmp_path / "odd", "a.pt", model_cfg=None)))


def test_a_repository_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is a folder here: what is asked of it is what open_clip asks."""
    model = {**DESCRIPTION["model_cfg"], "text_cfg": {"hf_tokenizer_name": "org/tokenizer"}}
    folder = described(tmp_path / "repository", "open_clip_pytorch_model.bin", model_cfg=model)

    def fetch(repository: str, filename: str = "open_clip_pytorch_model.bin") -> str:
        if repository != "org/model":
            raise FileNotFoundError(f"Failed to download file ({filename}) for {repository}.")
        return str(folder / filename)

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", fetch)
    source = find_source("hf-hub:org/model")
    assert source.weights == folder / "open_clip_pytorch_model.bin"
    assert source.tokenizer == "org/tokenizer"
    with pytest.raises(ModelError, match="cannot be fetched: Failed to download"):
        find_source("hf-hub:org/other")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-23/openai", "no architecture 'ViT-B-23'; did you mean 'ViT-B-"),
        ("ViT-B-32/laion2b_s34b_b79", "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32/zzz", "no weights 'zzz' of ViT-B-32; known: .*openai"),
        ("ViT-B-32", "names no weights: add /TAG, /FILE, or @random .* has the tags openai, "),
        ("ViT-M-32", "names no weights: add .*; it has no tags"),
        ("ViT-B-32/no/such/file.pt", "there is no file no/such/file.pt"),
        ("ViT-B-99@random", "no architecture 'ViT-B-99'; did you mean"),
        ("ViT-B-32/openai?activation=relu", "not 'activation=relu'"),
        ("ViT-B-32/openai?device=cuda", "not 'device=cuda'"),
        ("ViT-B-32-quickgelu@random?activation=gelu", "cannot be read with gelu"),
    ],
)
def test_names_that_stand_for_nothing(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_source(spec)


def test_a_name_and_an_argument_that_contradict_each_other() -> None:
    with pytest.raises(ModelError, match="contradicts activation='gelu'"):
        find_source("ViT-B-32@random?activation=quick_gelu", "gelu")


def test_a_file_of_no_known_architecture(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ModelError, match="does not say its architecture"):
        find_source(str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["w.pt", "old.pth", "w.bin", "w.safetensors", "checkpoint.pt"])
def test_weights_are_read_by_their_own_names(tmp_path: Path, name: str, prefix: str) -> None:
    state = {prefix + key: value for key, value in STATE.items()}
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif name == "checkpoint.pt":  # as open_clip_train writes it
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
        torch.save({"epoch": 1, "name": "x", "state_dict": state, "optimizer": optimizer}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pth")
    found = read_state(path)
    assert list(found) == list(STATE)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "whole model"])
def test_nothing_in_a_file_is_run(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "executed", tmp_path / "weights.pt"
    if kind == "whole model":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({**STATE, "x": Malicious(victim)}))
    else:
        content = {**STATE, "x": Malicious(victim)}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        torch.load(path, weights_only=False)
        assert victim.exists()  # it would
        victim.unlink()
    with pytest.raises(ModelError) as caught:
        read_state(path)
    assert not victim.exists()
    assert "holds more than weights" in str(caught.value)
    assert "could run any code" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(ModelError, match="is a TorchScript archive, which holds code to run"):
        read_state(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", b"x", r"end in \.safetensors, \.bin, \.pt, \.pth"),
        ("w.safetensors", b"x" * 20, "cannot be read as weights"),
        ("w.pt", b"", "cannot be read as weights"),
        ("w.pt", b"PK\x03\x04" + b"x" * 60, "weights"),
        ("w.pt", [1, 2], "holds no weights by their names, but list"),
        ("w.pt", {}, "holds no weights by their names, but dict"),
        ("w.pt", {"a": 1}, "holds no weights alone: 'a' is int"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match=message) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
