import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from clipkit.data.load import load_data
from clipkit.data.preprocess import load_pixels, normalize
from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.from_open_clip import count_parameters, known_open_clip, load_open_clip
from clipkit.models.trainable import set_trainable
from tests.models.open_clip_folders import CAPTIONS, FAMILIES, make_folder

PHOTOS = ("astronaut", "cat", "cup of coffee", "rocket")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small models are, each written once."""
    return tmp_path_factory.mktemp("open_clip")


def folder(folders: Path, name: str) -> Path:
    """Write a small model where it is not there yet."""
    path = folders / name
    return path if path.exists() else make_folder(name, path)


@cache
def photos() -> list[Path]:
    """Photographs in colour, whose two sides differ."""
    found = [sample.image for sample in load_data("skimage_photos") if sample.label in PHOTOS]
    assert len(found) == len(PHOTOS)
    return [path for path in found if isinstance(path, Path)]


def theirs(path: Path) -> dict[str, Tensor]:
    """Return open_clip's own features and logits of the photographs and the captions."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    images = torch.stack([transform(Image.open(photo)) for photo in photos()])
    tokens = open_clip.get_tokenizer(f"local-dir:{path}")(CAPTIONS)
    with torch.no_grad():
        image = model.encode_image(images, normalize=True)
        text = model.encode_text(tokens, normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return {"image": image, "text": text, "logits": logits}


def ours(model: DualEncoder) -> dict[str, Tensor]:
    """Return our features and logits of the same."""
    pixels = [torch.from_numpy(load_pixels(photo, model.preprocessing)) for photo in photos()]
    with torch.no_grad():
        image = model.encode_image(normalize(torch.stack(pixels), model.preprocessing))
        text = model.encode_text(model.tokenize(CAPTIONS))
        logits = model.logit_scale * image @ text.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return {"image": image, "text": text, "logits": logits}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    """Compare features and logits; they must say something to begin with."""
    for name in ("image", "text"):
        assert (expected[name][0] - expected[name][1]).norm() > 3e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_open_clips_own(folders: Path, name: str) -> None:
    path = folder(folders, name)
    model = load(f"open_clip:{path}")
    assert not model.training
    assert_equal(ours(model), theirs(path))
    assert model.similarity == ("sigmoid" if name.startswith("siglip") else "softmax")


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_cut_to_their_length_where_that_changes_nothing(folders: Path, name: str) -> None:
    model = load(f"open_clip:{folder(folders, name)}")
    short = ["a photo of a cat", "the red dog"]
    cut, full = (model.tokenizer(short, shorten=shorten) for shorten in (True, False))
    assert cut["input_ids"].shape[1] < full["input_ids"].shape[1] == model.context_length
    assert model.text_tower.shortens == FAMILIES[name].shortens
    with torch.no_grad():
        distance = (model.encode_text(cut) - model.encode_text(full)).norm(dim=1)
    if FAMILIES[name].shortens:
        assert distance.max() < 1e-6
        assert torch.equal(model.tokenize(short)["input_ids"], cut["input_ids"])
    else:
        assert distance.min() > 1e-4
        assert torch.equal(model.tokenize(short)["input_ids"], full["input_ids"])


def register(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, **tags: Any) -> dict[str, Any]:
    """Make open_clip know a small model as an architecture, with published weights."""
    config = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    return dict(config)


def published(path: Path, **settings: Any) -> dict[str, Any]:
    """Describe weights as open_clip's table of tags does, but for where they come from."""
    tag: dict[str, Any] = open_clip.pretrained._pcfg(**settings)
    return {**tag, "file": str(path / "open_clip_model.safetensors")}


def test_the_tag_decides_activation_and_preprocessing(
    folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = folder(folders, "vit")
    squashed = published(path, quick_gelu=True, resize_mode="squash", interpolation="bilinear")
    tags = {"plain": published(path), "quick_one": squashed}
    config = register(monkeypatch, path, "Tiny-ViT", **tags)
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "Tiny-ViT-quickgelu", {**config, "quick_gelu": True}
    )
    plain, quick = load("open_clip:Tiny-ViT/plain"), load("open_clip:Tiny-ViT/quick-one")
    assert quick.preprocessing.resize == "squash"
    assert quick.preprocessing.interpolation == "bilinear"
    assert quick.name == "open_clip:Tiny-ViT/quick-one"
    assert quick.architecture["base"] == {"name": "open_clip:Tiny-ViT/quick-one"}
    assert_equal(ours(plain), theirs(path))
    expected, _, transform = open_clip.create_model_and_transforms(
        "Tiny-ViT", "quick_one", force_quick_gelu=True
    )
    with torch.no_grad():
        images = torch.stack([transform(Image.open(photo)) for photo in photos()])
        features = expected.eval().encode_image(images, normalize=True)
    torch.testing.assert_close(ours(quick)["image"], features, rtol=0, atol=1e-5)
    assert (ours(plain)["text"] - ours(quick)["text"]).abs().max() > 1e-3
    quick.save(str(tmp_path / "model"))
    again = load(tmp_path / "model")
    assert again.architecture["config"]["quick_gelu"] is True
    assert all(torch.equal(ours(again)[name], value) for name, value in ours(quick).items())
    with pytest.raises(ModelError, match="with quick_gelu: it cannot be read with gelu"):
        load("open_clip:Tiny-ViT/quick_one?activation=gelu")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_comes_back(folders: Path, name: str, tmp_path: Path) -> None:
    model = load_open_clip(str(folder(folders, name)))
    model.save(str(tmp_path / "model"))
    again = load(tmp_path / "model")
    assert again.fingerprint() == model.fingerprint()
    assert again.similarity == model.similarity
    assert all(torch.equal(ours(again)[key], value) for key, value in ours(model).items())


def test_a_new_process_gives_the_same_bits_without_what_it_was_loaded_from(tmp_path: Path) -> None:
    fingerprints = []
    for name in ("quickgelu", "coca", "clipa", "roberta"):
        source = make_folder(name, tmp_path / "source")
        model = load(f"open_clip:{source}")
        model.save(str(tmp_path / name))
        source.rename(tmp_path / f"gone-{name}")
        torch.manual_seed(5)
        images = torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
        with torch.inference_mode():
            mine = {"image": model.encode_image(images), "scale": model.logit_scale}
            mine["text"] = model.encode_text(model.tokenize(CAPTIONS))
        torch.save({"images": images, **mine}, tmp_path / f"{name}.pt")
        fingerprints.append(model.fingerprint())
    code = f"""
import clipkit, torch
torch.set_num_threads(1)
for name in ("quickgelu", "coca", "clipa", "roberta"):
    model = clipkit.load({str(tmp_path)!r} + "/" + name)
    mine = torch.load({str(tmp_path)!r} + f"/{{name}}.pt", weights_only=True)
    with torch.inference_mode():
        assert torch.equal(model.encode_image(mine["images"]), mine["image"])
        assert torch.equal(model.encode_text(model.tokenize({CAPTIONS!r})), mine["text"])
        assert torch.equal(model.logit_scale, mine["scale"])
    print(model.fingerprint())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == fingerprints


@pytest.mark.parametrize("name", ["vit", "resnet", "eva", "convnext_mlp", "roberta", "coca"])
def test_projections_train_on_features_of_frozen_towers(folders: Path, name: str) -> None:
    model = load(f"open_clip:{folder(folders, name)}")
    counts = set_trainable(model, "projections")
    assert counts["image_projection"][0] > 0
    assert counts["text_projection"][0] > 0
    model.train()
    size = model.preprocessing.size
    loss = model.encode_image(torch.randn(2, 3, size, size)).sum()
    (loss + model.encode_text(model.tokenize(["a cat", "a dog"])).sum()).backward()
    for part in ("image_projection", "text_projection"):
        assert all(p.grad is not None for p in getattr(model, part).parameters())
    assert all(p.grad is None for p in model.image_tower.parameters())


def test_a_model_trained_with_the_sigmoid_loss_is_a_sigmoid_model(
    folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As open_clip_train saves it: the configuration says nothing of a bias."""
    path = folder(folders, "vit")
    state = load_file(path / "open_clip_model.safetensors")
    state = {f"module.{key}": value for key, value in state.items()}
    state["module.logit_bias"] = torch.tensor(-9.5)
    state["module.logit_scale"] = torch.tensor([2.25])
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    register(monkeypatch, path, "Tiny-ViT")
    model = load(f"open_clip:Tiny-ViT/{tmp_path / 'epoch_3.pt'}")
    assert model.similarity == "sigmoid"
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -9.5
    assert model.log_logit_scale.item() == 2.25
    expected = theirs(path)
    assert_equal(ours(model), {name: expected[name] for name in ("image", "text")})
    model.save(str(tmp_path / "model"))
    assert load(tmp_path / "model").fingerprint() == model.fingerprint()


def test_random_weights_come_only_when_asked_for(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(folders, "vit")
    register(monkeypatch, path, "Tiny-ViT", some_tag=published(path))
    model = load("open_clip:Tiny-ViT@random?activation=quick_gelu")
    assert model.architecture["config"]["quick_gelu"] is True
    assert model.architecture["base"] is None
    assert model.dim == 24
    with pytest.raises(
        ModelError, match=r"names no weights.*@random.*Tiny-ViT has the tags some_t"
    ):
        load("open_clip:Tiny-ViT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode 'longest'; known: shortest"),
        ({"vision": {"image_size": [48, 64]}}, "48 x 64 pixels: only squares"),
        ({"vision": {"no_such_setting": 1}}, "cannot build this model.*no_such_setting"),
        ({"vision": {"width": 32}}, r"does not fit the model: .* is \(64"),
        ({"vision": {"layers": 1}}, "has the unknown visual.transformer.resblocks.1.*more"),
        ({"vision": {"layers": 3}}, "lacks visual.transformer.resblocks.2.*and 9 more"),
        ({"text": {"tokenizer_kwargs": {"reduction_mask": "random"}}}, "by chance"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    folders: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = folder(folders, "vit")
    description = json.loads((source / "open_clip_config.json").read_text())
    description["model_cfg"]["vision_cfg"].update(change.get("vision", {}))
    description["model_cfg"]["text_cfg"].update(change.get("text", {}))
    description["preprocess_cfg"].update(change.get("preprocess_cfg", {}))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    weights = tmp_path / "open_clip_model.safetensors"
    weights.symlink_to(source / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        load(f"open_clip:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_what_open_clip_knows_is_listed() -> None:
    known = {model.name: model for model in known_open_clip()}
    assert len(known) == len(open_clip.list_models())
    vit = known["open_clip:ViT-B-32"]
    assert "laion2b_s34b_b79k" in vit.tags
    assert (vit.resolution, vit.context_length, vit.dim) == (224, 77, 512)
    siglip = known["open_clip:ViT-B-16-SigLIP-256"]
    assert (siglip.resolution, siglip.context_length, siglip.dim) == (256, 64, 768)
    assert {(model.name, tag) for model in known.values() for tag in model.tags} == {
        (f"open_clip:{name}", tag) for name, tag in open_clip.list_pretrained()
    }


def test_parameters_are_counted_without_building() -> None:
    assert count_parameters("open_clip:ViT-B-32") == 151_277_313  # as open_clip's own table has it
    with pytest.raises(ModelError, match="no architecture 'ViT-B-23'; did you mean"):
        count_parameters("open_clip:ViT-B-23")


def test_long_texts_are_read_in_pieces(folders: Path) -> None:
    """The features are the mean of those of the pieces, weighted by their lengths."""
    model = load(f"open_clip:{folder(folders, 'vit')}")
    words = ["cat", "dog", "red", "green", "spoon"] * 25
    room = model.context_length - 2
    pieces = [" ".join(words[:room]), " ".join(words[room:])]
    assert model.count_tokens(pieces) == [77, 52]
    with torch.no_grad():
        each = model.text_tower_features(model.tokenize(pieces))
        model.long_texts = "pieces"
        found = model.text_tower_features(model.tokenize(["a cat", " ".join(words)]))
    mean = (each[0] * 77 + each[1] * 52) / 129
    torch.testing.assert_close(found[1], mean, rtol=1e-4, atol=1e-5)
