import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.storage import load_model, save_model

Make = Callable[..., DualEncoder]


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_a_new_process_gives_the_same_bits(
    make_model: Make, tmp_path: Path, projection: str
) -> None:
    model = make_model(seed=3, projection=projection)
    model.save(str(tmp_path / "model"), training_data=["sha256:abc"])
    torch.manual_seed(5)
    images, texts = torch.randn(4, 3, 32, 32), ["a red cat", "the dog"]
    with torch.inference_mode():
        mine = {
            "image": model.encode_image(images),
            "text": model.encode_text(model.tokenize(texts)),
            "scale": model.logit_scale,
        }
    torch.save(mine, tmp_path / "mine.pt")
    code = f"""
import clipkit, torch
torch.set_num_threads(1)
model = clipkit.load({str(tmp_path / "model")!r})
torch.manual_seed(5)
images = torch.randn(4, 3, 32, 32)
mine = torch.load({str(tmp_path / "mine.pt")!r}, weights_only=True)
with torch.inference_mode():
    assert torch.equal(model.encode_image(images), mine["image"])
    assert torch.equal(model.encode_text(model.tokenize({texts!r})), mine["text"])
    assert torch.equal(model.logit_scale, mine["scale"])
assert not model.training
print(model.fingerprint())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == model.fingerprint()


def test_how_long_texts_are_read_is_kept(model: DualEncoder, tmp_path: Path) -> None:
    model.long_texts = "pieces"
    model.save(str(tmp_path / "model"))
    loaded = load(tmp_path / "model")
    assert loaded.long_texts == "pieces"
    text = ["a red cat in the good picture " * 9]
    with torch.inference_mode():
        mine, theirs = (m.encode_text(m.tokenize(text)) for m in (model, loaded))
        beginning = load(tmp_path / "model")
        beginning.long_texts = "head"
        assert torch.equal(mine, theirs)
        assert not torch.equal(mine, beginning.encode_text(beginning.tokenize(text)))


def test_the_description_explains_the_model(model: DualEncoder, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model", training_data=["sha256:abc"])
    description = json.loads((tmp_path / "model" / "clipkit.json").read_text())
    assert description["format"] == 1
    assert description["training_data"] == ["sha256:abc"]
    assert description["fingerprint"] == model.fingerprint()
    assert set(description["files"]) >= {"model.safetensors", "tokenizer/tokenizer.json"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_towers_of_packages_are_stored_by_reference(starter: DualEncoder, tmp_path: Path) -> None:
    save_model(starter, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 8_000_000
    again = load_model(tmp_path / "model")
    assert again.fingerprint() == starter.fingerprint()


def test_a_changed_tower_is_stored_whole(starter: DualEncoder, tmp_path: Path) -> None:
    tuned = load("starter")
    with torch.no_grad():
        next(tuned.image_tower.parameters()).add_(0.01)
    save_model(tuned, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.fingerprint() == tuned.fingerprint() != starter.fingerprint()


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "missing", "format", "json", "none"])
def test_damage_is_one_sentence(model: DualEncoder, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    save_model(model, folder)
    weights, description = folder / "model.safetensors", folder / "clipkit.json"
    if damage == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
    elif damage == "tokenizer":
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    elif damage == "missing":
        weights.unlink()
    elif damage == "format":
        description.write_text(description.read_text().replace('"format": 1', '"format": 99'))
    elif damage == "json":
        description.write_text("{")
    else:
        description.unlink()
    words = {"weights": "was changed", "tokenizer": "was changed", "missing": "lacks its file"}
    words |= {"format": "format 99", "json": "damaged", "none": "no clipkit model folder"}
    with pytest.raises(ModelError, match=words[damage]):
        load(folder)


def test_saving_replaces_a_model_and_nothing_else(make_model: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(make_model(0), folder)
    save_model(make_model(1), folder)
    assert load_model(folder).fingerprint() == make_model(1).fingerprint()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="no clipkit model"):
        save_model(make_model(0), other)
    assert (other / "thesis.txt").read_text() == "years of work"


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(ModelError, match="did you mean 'starter'"):
        load("startr")
    with pytest.raises(ModelError, match="no model"):
        load("/no/such/folder")
