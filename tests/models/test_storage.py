import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertModel, BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters
from clipkit.models.storage import _description_sha256, load_model, save_model
from clipkit.models.trainable import Lora, set_trainable
from tests.conftest import TEXT
from tests.models.small import (
    KINDS,
    TOWERS,
    TRANSFORMERS,
    encoded,
    small_model,
    transformers_model,
)

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


@torch.no_grad()
def shake(model: DualEncoder, *, whole: bool = False) -> None:
    """Let the adapters, or all weights, be as if trained."""
    torch.manual_seed(3)
    for parameter in model.parameters() if whole else lora_parameters(model):
        parameter.add_(0.1 * torch.randn_like(parameter))


def in_a_new_process(code: str, **environment: str) -> str:
    code = f"import json, sys, torch\ntorch.set_num_threads(1)\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kind_with_and_without_adapters_gives_the_same_bits_in_a_new_process(
    make_model: Make, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    expected = {}
    for kind in (*KINDS, *TOWERS, *TRANSFORMERS):
        for lora in (False, True):
            if kind in TRANSFORMERS:
                model = transformers_model(kind, tmp_path / f"{kind}{lora}")
            else:
                model = small_model(kind, make_model, tokenizer)
            if lora:
                add_lora(model, rank=2)
            shake(model, whole=not lora)
            name = f"{kind}{'-lora' * lora}"
            save_model(model, tmp_path / name)
            assert (tmp_path / name / "adapters.safetensors").exists() == lora
            expected[name] = [model.fingerprint(), *encoded(model)]
    torch.save(expected, tmp_path / "expected.pt")
    code = f"""
import clipkit
from tests.models.small import encoded
expected = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
for name, (fingerprint, image, text) in expected.items():
    model = clipkit.load({str(tmp_path)!r} + "/" + name)
    found = encoded(model)
    assert torch.equal(found[0], image) and torch.equal(found[1], text), name
    assert model.fingerprint() == fingerprint, name
    assert not any(module.training for module in model.modules())
print(len(expected))
"""
    assert in_a_new_process(code) == f"{len(expected)}\n"


@pytest.mark.parametrize("kind", ["open_clip", "test_vit"])
def test_adapters_merged_are_weights_like_others(
    kind: str, make_model: Make, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    model = small_model(kind, make_model, tokenizer)
    plain = set(model.state_dict())
    add_lora(model)
    shake(model)
    save_model(model, tmp_path / "model", adapters="merged")
    assert "lora" in model.architecture
    assert not (tmp_path / "model" / "adapters.safetensors").exists()
    loaded = load(tmp_path / "model")
    assert set(loaded.state_dict()) == plain
    for mine, theirs in zip(encoded(model), encoded(loaded), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_adapters_beside_towers_of_packages_are_small(starter: DualEncoder, tmp_path: Path) -> None:
    tuned = load("starter")
    counts = set_trainable(tuned, Lora(rank=2, towers=("text_tower",)))
    shake(tuned)
    save_model(tuned, tmp_path / "model")
    size = (tmp_path / "model" / "adapters.safetensors").stat().st_size
    assert 0 < size - 4 * counts["text_tower"][0] < 20_000
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 8_000_000
    again = load(tmp_path / "model")
    assert again.fingerprint() == tuned.fingerprint() != starter.fingerprint()
    save_model(again, tmp_path / "again", base="inside")
    assert (tmp_path / "again" / "model.safetensors").stat().st_size > 80_000_000
    assert load(tmp_path / "again").fingerprint() == tuned.fingerprint()


def stored(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name.partition(".")[0] for name in file.keys()}


@pytest.fixture
def hub(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> dict[str, DualEncoder]:
    """A hub with one model, which a test can take from it."""
    models = {"hf:someone/towers": make_model()}

    def load_from_hub(name: str) -> DualEncoder:
        if name not in models:
            raise ModelError(f"no model {name!r}")
        return models[name]

    monkeypatch.setattr("clipkit.models.load", load_from_hub)
    return models


@pytest.fixture
def tuned(make_model: Make, hub: dict[str, DualEncoder]) -> DualEncoder:
    """That model with adapters."""
    model = make_model()
    model.name = next(iter(hub))
    add_lora(model, towers=["text_tower"])
    shake(model)
    return model


def test_towers_of_a_hub_are_stored_by_name(tuned: DualEncoder, tmp_path: Path) -> None:
    save_model(tuned, tmp_path / "model")
    assert stored(tmp_path / "model") == {
        "image_projection",
        "text_projection",
        "log_logit_scale",
    }
    loaded = load_model(tmp_path / "model")
    assert loaded.fingerprint() == tuned.fingerprint()
    save_model(loaded, tmp_path / "again")  # a folder remembers where its base is from
    assert load_model(tmp_path / "again").fingerprint() == tuned.fingerprint()
    assert stored(tmp_path / "again") == stored(tmp_path / "model")
    save_model(tuned, tmp_path / "whole", base="inside")
    assert {"image_tower", "text_tower"} < stored(tmp_path / "whole")
    save_model(tuned, tmp_path / "merged", adapters="merged")
    assert "image_tower" not in stored(tmp_path / "merged")
    assert "text_tower" in stored(tmp_path / "merged")


def test_a_tower_that_is_not_the_hubs_is_stored(
    tuned: DualEncoder, tmp_path: Path, hub: dict[str, DualEncoder]
) -> None:
    with torch.no_grad():
        next(tuned.image_tower.parameters()).add_(1e-3)
    save_model(tuned, tmp_path / "model")
    assert "image_tower" in stored(tmp_path / "model")
    assert "text_tower" not in stored(tmp_path / "model")
    assert load_model(tmp_path / "model").fingerprint() == tuned.fingerprint()
    hub.clear()
    save_model(tuned, tmp_path / "alone")  # what cannot be compared is stored
    assert load_model(tmp_path / "alone").fingerprint() == tuned.fingerprint()


def test_a_base_that_changed_or_is_gone_is_refused(
    tuned: DualEncoder, tmp_path: Path, hub: dict[str, DualEncoder], make_model: Make
) -> None:
    save_model(tuned, tmp_path / "model")
    hub["hf:someone/towers"] = make_model(seed=1)
    with pytest.raises(ModelError, match="image_tower of hf:someone/towers is not what this model"):
        load_model(tmp_path / "model")
    hub.clear()
    with pytest.raises(ModelError, match="base hf:someone/towers cannot be loaded: no model"):
        load_model(tmp_path / "model")


def test_what_is_not_on_a_hub_is_stored(
    tuned: DualEncoder, tmp_path: Path, hub: dict[str, DualEncoder]
) -> None:
    for name in (f"hf:{tmp_path}", f"towers:x+{tmp_path}", "open_clip:X@random", "tiny", ""):
        tuned.name = name
        hub[name] = next(iter(hub.values()))
        save_model(tuned, tmp_path / "model")
        assert "image_tower" in stored(tmp_path / "model")


def test_a_real_hub_name_in_new_processes(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """timm's and transformers' own cache, filled by hand, stands for the hub."""
    import timm
    from safetensors.torch import save_file

    def cached(name: str) -> Path:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("c0ffee")
        snapshot = folder / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        return snapshot

    torch.manual_seed(0)
    vit = timm.create_model("test_vit")
    save_file(vit.state_dict(), cached("timm/test_vit.r160_in1k") / "model.safetensors")
    bert = cached("someone/bert")
    config = BertConfig(**{key: value for key, value in TEXT.items() if key != "model_type"})
    BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    name, folder = "towers:test_vit+someone/bert", str(tmp_path / "model")
    first = f"""
import clipkit
from clipkit.models.trainable import set_trainable
from tests.models.small import encoded
from tests.models.test_storage import shake, stored
model = clipkit.load({name!r})
set_trainable(model, "lora")
shake(model)
model.save({folder!r})
torch.save(encoded(model), {str(tmp_path / "mine.pt")!r})
from pathlib import Path
print(len(stored(Path({folder!r}))))
"""
    assert in_a_new_process(first, **environment) == "3\n"
    second = f"""
import clipkit
from tests.models.small import encoded
model = clipkit.load({folder!r})
mine = torch.load({str(tmp_path / "mine.pt")!r}, weights_only=True)
print(all(torch.equal(a, b) for a, b in zip(mine, encoded(model))))
"""
    assert in_a_new_process(second, **environment) == "True\n"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("flip weights", r"model\.safetensors was changed"),
        ("flip adapters", r"adapters\.safetensors was changed"),
        ("flip description", "was changed after it was saved"),
        ("drop weights", r"lacks its file model\.safetensors"),
        ("drop adapters", r"lacks its file adapters\.safetensors"),
        ("drop tokenizer", "lacks its file tokenizer/tokenizer"),
        ("rank", "clipkit.json was changed"),
        ("rank, signed", r"adapters\.safetensors: .*lora_A.* is \(2, .*\), not \(3, "),
        ("target, signed", r"adapters\.safetensors does not fit its description"),
        ("no such target, signed", r"the model has no weight image_tower\.x\.weight"),
        ("no rank, signed", "its LoRA settings are damaged: KeyError"),
        ("architecture, signed", r"model\.safetensors"),
        ("projection, signed", r"model\.safetensors"),
    ],
)
def test_damage_to_adapters_is_one_sentence(
    model: DualEncoder, tmp_path: Path, damage: str, word: str
) -> None:
    add_lora(model, rank=2)
    folder = tmp_path / "model"
    save_model(model, folder)
    path = folder / "clipkit.json"
    description = json.loads(path.read_text())
    files = {"weights": "model.safetensors", "adapters": "adapters.safetensors"}
    files |= {"description": "clipkit.json", "tokenizer": "tokenizer/tokenizer.json"}
    change, _, what = damage.partition(" ")
    architecture = description["architecture"]
    if change == "flip":
        content = bytearray((folder / files[what]).read_bytes())
        at = content.index(b"0.5") + 2 if what == "description" else len(content) - 1
        content[at] ^= 1
        (folder / files[what]).write_bytes(bytes(content))
    elif change == "drop":
        (folder / files[what]).unlink()
    elif change.startswith("rank"):
        architecture["lora"]["rank"] = 3
    elif change.startswith("target"):
        architecture["lora"]["called"].pop()
    elif damage.startswith("no such"):
        architecture["lora"]["called"].append("image_tower.x.weight")
    elif damage.startswith("no rank"):
        del architecture["lora"]["rank"]
    elif change.startswith("architecture"):
        architecture["text_tower"]["config"]["intermediate_size"] += 1
    else:
        architecture["projection"]["dim"] += 1
    if change not in ("flip", "drop"):
        if "signed" in damage:
            description["description_sha256"] = _description_sha256(description)
        path.write_text(json.dumps(description))
    with pytest.raises(ModelError, match=word) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
