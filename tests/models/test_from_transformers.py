"""Each kind of model as transformers itself runs it, against the same folder loaded by clipkit."""

import importlib.util
import json
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertTokenizerFast,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    XLMRobertaTokenizer,
)

from clipkit.data.preprocess import load_pixels, normalize
from clipkit.errors import ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder

CAPTIONS = [
    "a cat",
    "a photo of a red square",
    "cat",
    "the black dog in a picture of the white cat, one good photo",
]
PHOTOS = ("chelsea.png", "coffee.png")
LONG = 24
"""How many tokens the tiny text towers have positions for."""

SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
GROUPS = {"depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4]}
EFFICIENTNET = {
    "image_size": 32,
    "width_coefficient": 0.2,
    "depth_coefficient": 0.2,
    "hidden_dim": 64,
    "depth_divisor": 4,
}


def clip_tokenizer() -> PreTrainedTokenizerBase:
    pieces = [*string.ascii_lowercase, ","]
    words = [*pieces, *(f"{piece}</w>" for piece in pieces), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[])


def xlm_tokenizer() -> PreTrainedTokenizerBase:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, ","]
    return XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces])


def bert_tokenizer() -> PreTrainedTokenizerBase:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *" ".join(CAPTIONS).split()]
    return BertTokenizerFast(vocab={word: at for at, word in enumerate(dict.fromkeys(words))})


def gemma_tokenizer() -> PreTrainedTokenizerBase:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase, ","]
    return GemmaTokenizer(
        vocab={piece: at for at, piece in enumerate(pieces)},
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
    )


def masked_gemma_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = gemma_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def clip_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {**TOWER, **{name: getattr(tokenizer, name) for name in names}}


@dataclass(frozen=True)
class Kind:
    """What a tiny model of one kind is made of.

    Attributes:
        tokenizer: makes its tokenizer.
        processor: name of its image processor.
        vision: settings of the vision tower.
        text: settings of the text tower, besides its length and its vocabulary.
        settings: of the whole.
        shape: settings of the image processor.
        shortens: whether padding changes nothing.
        positions: how many rows its table of positions has.
    """

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    processor: str
    vision: dict[str, Any]
    text: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=lambda: {"projection_dim": 16})
    shape: dict[str, Any] = field(default_factory=dict)
    shortens: bool = True
    positions: int = LONG


SHORTEST = {"size": {"shortest_edge": 43}, "crop_size": {"height": 32, "width": 32}}
SQUASH = {"size": {"height": 32, "width": 32}}
CROPPED = {**SQUASH, "crop_size": SQUASH["size"]}
XLM = {**TOWER, **SPECIAL}
BERT = {**TOWER, "pad_token_id": 0}

KINDS = {
    "clip": Kind(clip_tokenizer, "CLIP", VISION, clip_text(clip_tokenizer()), shape=SHORTEST),
    "siglip": Kind(gemma_tokenizer, "Siglip", VISION, TOWER, {}, SQUASH, shortens=False),
    "align": Kind(
        bert_tokenizer,
        "EfficientNet",
        EFFICIENTNET,
        BERT,
        {"projection_dim": 64, "temperature_init_value": 0.5},
        {
            "size": {"height": 40, "width": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "rescale_factor": 1 / 127.5,
            "rescale_offset": True,
            "do_normalize": False,
            "include_top": False,
            "resample": 2,
        },
    ),
    "chinese_clip": Kind(bert_tokenizer, "ChineseCLIP", VISION, BERT, shape=CROPPED),
    "altclip": Kind(
        xlm_tokenizer, "CLIP", VISION, {**XLM, "project_dim": 20}, shape=SHORTEST,
        positions=LONG + 2,
    ),
    "metaclip_2": Kind(xlm_tokenizer, "CLIP", VISION, XLM, shape=SHORTEST),
    "aimv2": Kind(clip_tokenizer, "CLIP", VISION, clip_text(clip_tokenizer()), shape=SHORTEST),
    "clipseg": Kind(clip_tokenizer, "ViT", VISION, clip_text(clip_tokenizer()), shape=SQUASH),
    "owlvit": Kind(clip_tokenizer, "OwlViT", VISION, clip_text(clip_tokenizer()), shape=CROPPED),
    "groupvit": Kind(
        clip_tokenizer,
        "CLIP",
        {**VISION, **GROUPS},
        clip_text(clip_tokenizer()),
        {"projection_dim": 16, "projection_intermediate_dim": 24},
        SHORTEST,
    ),
    "tipsv2": Kind(
        masked_gemma_tokenizer,
        "Siglip",
        VISION,
        TOWER,
        {},
        {**SQUASH, "do_normalize": False, "resample": 2},
    ),
    "blip": Kind(bert_tokenizer, "Blip", VISION, BERT, shape=SQUASH),
    "vision-text-dual-encoder": Kind(
        bert_tokenizer,
        "ViT",
        {**VISION, "model_type": "vit"},
        {**BERT, "model_type": "bert"},
        shape={**SQUASH, "do_rescale": False},
    ),
}  # fmt: skip


def make_folder(kind: str, folder: Path, seed: int = 0, length: int = LONG) -> Path:
    """Save a tiny model of one kind with its tokenizer and image processor."""
    parts = KINDS[kind]
    tokenizer = parts.tokenizer()
    tokenizer.model_max_length = length
    positions = parts.positions - LONG + length
    text = {**parts.text, "max_position_embeddings": positions, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(
        kind, vision_config=parts.vision, text_config=text, **parts.settings
    )
    torch.manual_seed(seed)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():  # weights that matter: a fresh model's are small, its biases zero
        for name, value in model.named_parameters():
            if name == "logit_bias":
                value.fill_(-3.0)
            elif value.ndim:
                value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = getattr(transformers, f"{parts.processor}ImageProcessorPil")
    processor(**parts.shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make each kind's folder once; a test must not change it."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_folder(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, folders: Callable[[str], Path]) -> Path:
    return folders(kind)


@pytest.fixture
def mine(folder: Path) -> DualEncoder:
    return load(f"hf:{folder}")


def photos() -> list[Image.Image]:
    data = Path(skimage.__file__).parent / "data"
    return [Image.open(data / name).convert("RGB") for name in PHOTOS]


def pixels(model: DualEncoder) -> Tensor:
    images = [torch.from_numpy(load_pixels(photo, model.preprocessing)) for photo in photos()]
    return normalize(torch.stack(images), model.preprocessing)


def unit(output: Any) -> Tensor:
    features: Tensor = output.pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def theirs(folder: Path) -> dict[str, Any]:
    """Encode photographs and captions with nothing but transformers."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = processor(photos(), return_tensors="pt")
    tokens = tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return {
            "pixels": images["pixel_values"],
            "image": unit(model.get_image_features(**images)),
            "text": unit(model.get_text_features(**tokens)),
            "logits": model(**images, **tokens).logits_per_image,
        }


def test_equals_transformers(folder: Path, mine: DualEncoder) -> None:
    peer = theirs(folder)
    assert not mine.training
    torch.testing.assert_close(pixels(mine), peer["pixels"], rtol=0, atol=1e-6)
    with torch.inference_mode():
        image = mine.encode_image(pixels(mine))
        text = mine.encode_text(mine.tokenize(CAPTIONS))
        logits = mine.logit_scale * image @ text.T
        if mine.logit_bias is not None:
            logits = logits + mine.logit_bias
    assert image.shape[1] == text.shape[1] == mine.dim
    torch.testing.assert_close(image, peer["image"], rtol=0, atol=1e-5)
    torch.testing.assert_close(text, peer["text"], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, peer["logits"], rtol=1e-5, atol=1e-5)
    spread = (text[0] - text[1]).abs().max()
    assert spread > 1e-3  # texts are told apart at all


def test_padding_changes_nothing_exactly_where_texts_are_shortened(
    kind: str, mine: DualEncoder
) -> None:
    assert getattr(mine.text_tower, "shortens") is KINDS[kind].shortens  # noqa: B009
    with torch.inference_mode():
        short, full = (
            mine.encode_text(mine.tokenizer(CAPTIONS[:2], shorten=shorten))
            for shorten in (True, False)
        )
    assert mine.tokenizer(["cat"])["input_ids"].shape[1] < mine.context_length == LONG
    if KINDS[kind].shortens:
        torch.testing.assert_close(short, full, rtol=0, atol=1e-6)
        assert mine.tokenize(["cat"])["input_ids"].shape[1] < LONG
    else:
        assert (short - full).abs().max() > 1e-3
        assert mine.tokenize(["cat"])["input_ids"].shape[1] == LONG


def test_each_tower_holds_its_own_parameters(folder: Path, mine: DualEncoder) -> None:
    whole = AutoModel.from_pretrained(folder)
    names = {
        "vision_model": mine.image_tower,
        "text_model": mine.text_tower,
        "visual_projection": mine.image_projection,
        "text_projection": mine.text_projection,
    }
    for name, part in names.items():
        theirs = list(getattr(whole, name).parameters()) if hasattr(whole, name) else []
        assert [p.shape for p in part.parameters()] == [p.shape for p in theirs]
        assert all(torch.equal(a, b) for a, b in zip(part.parameters(), theirs, strict=True))
    assert sum(p.numel() for p in mine.parameters()) == sum(p.numel() for p in whole.parameters())
    mine.text_tower.requires_grad_(False)
    mine.train()
    assert mine.image_tower.training
    assert not mine.text_tower.training
    loss = mine.encode_image(pixels(mine)).sum() + mine.encode_text(mine.tokenize(CAPTIONS)).sum()
    loss.backward()
    assert all(p.grad is None for p in mine.text_tower.parameters())
    assert any(p.grad is not None for p in mine.image_tower.parameters())


def test_a_new_process_gives_the_same_bits(folders: Callable[[str], Path], tmp_path: Path) -> None:
    fingerprints = []
    for kind in KINDS:
        model = load(f"hf:{folders(kind)}")
        model.save(str(tmp_path / kind))
        with torch.inference_mode():
            expected = {
                "image": model.encode_image(pixels(model)),
                "text": model.encode_text(model.tokenize(CAPTIONS)),
                "scale": model.logit_scale,
                "bias": torch.tensor([]) if model.logit_bias is None else model.logit_bias,
            }
        torch.save({**expected, "pixels": pixels(model)}, tmp_path / f"{kind}.pt")
        fingerprints.append(model.fingerprint())
    code = f"""
import clipkit, torch
torch.set_num_threads(1)
for kind in {list(KINDS)!r}:
    model = clipkit.load({str(tmp_path)!r} + "/" + kind)
    mine = torch.load({str(tmp_path)!r} + f"/{{kind}}.pt", weights_only=True)
    with torch.inference_mode():
        assert torch.equal(model.encode_image(mine["pixels"]), mine["image"]), kind
        assert torch.equal(model.encode_text(model.tokenize({CAPTIONS!r})), mine["text"]), kind
        assert torch.equal(model.logit_scale, mine["scale"]), kind
        bias = torch.tensor([]) if model.logit_bias is None else model.logit_bias
        assert torch.equal(bias, mine["bias"]), kind
    print(model.fingerprint())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == fingerprints


def test_a_model_folder_says_where_the_model_came_from(folder: Path, mine: DualEncoder) -> None:
    assert mine.name == f"hf:{folder}"
    assert mine.architecture["base"] == {"name": mine.name}
    assert json.dumps(mine.architecture)
    assert "transformers_version" not in json.dumps(mine.architecture)


@pytest.fixture
def clip(folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of CLIP's folder, to be spoiled."""
    return Path(shutil.copytree(folders("clip"), tmp_path / "clip"))


def edit(path: Path, **changes: Any) -> None:
    """Change settings in a JSON file; `None` takes one out."""
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def refused(folder: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load(f"hf:{folder}")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_weights_in_half_precision_become_float32(clip: Path) -> None:
    AutoModel.from_pretrained(clip).half().save_pretrained(clip)
    model = load(f"hf:{clip}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.encode_image(pixels(model)).dtype == torch.float32


def test_a_folder_is_named_from_the_root(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    assert load("hf:clip").name == f"hf:{clip}"


def test_weights_do_not_depend_on_their_file(clip: Path) -> None:
    model = load(f"hf:{clip}")
    before = model.fingerprint()
    (clip / "model.safetensors").write_bytes(bytes((clip / "model.safetensors").stat().st_size))
    assert model.fingerprint() == before


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bert", "is of type bert, which has no get_image_features"),
        ("clip_vision_model", "has no get_image_features"),
        ("llava", "has no get_text_features"),
        ("xclip", "has no get_image_features"),
        ("flava", "no pair of an image and a text tower .*image_model.*multimodal_model"),
    ],
)
def test_other_models_are_refused_before_their_weights_are_read(
    tmp_path: Path, kind: str, words: str
) -> None:
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    assert re.search(words, refused(tmp_path))


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    assert "or a folder that is there" in refused("/no/such/folder")
    assert "cannot use its model" in refused("nobody/nothing")
    assert "name a model on the hub" in refused("")
    assert "cannot use its model" in refused(tmp_path)


def test_no_code_is_run(clip: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "trapped",)

    (clip / "model.safetensors").unlink()
    torch.save({"logit_scale": Trap()}, clip / "pytorch_model.bin")
    assert "cannot use its weights" in refused(clip)
    (clip / "trap.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')")
    names = {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"}
    edit(clip / "config.json", auto_map=names, model_type="trap")
    assert "cannot use its model" in refused(clip)
    assert not (tmp_path / "trapped").exists()


def test_weights_that_are_missing_or_damaged(clip: Path) -> None:
    weights = load_file(clip / "model.safetensors")
    name = next(name for name in weights if "k_proj.weight" in name)
    save_file({k: v for k, v in weights.items() if k != name}, clip / "model.safetensors")
    assert f"lacks weights, or has them in other shapes: {name} (and 0 more)" in refused(clip)
    save_file({**weights, name: torch.zeros(3)}, clip / "model.safetensors")
    assert f"{name} (and 0 more)" in refused(clip)
    (clip / "model.safetensors").write_bytes(b"damaged")
    assert "cannot use its weights" in refused(clip)


def test_tokenizers_that_do_not_fit(clip: Path) -> None:
    edit(clip / "tokenizer_config.json", padding_side="left")
    assert "its tokenizer pads on the left" in refused(clip)
    bigger = CLIPTokenizer.from_pretrained(clip, padding_side="right")
    bigger.add_tokens(["one more"])
    bigger.save_pretrained(clip)
    assert "its tokenizer knows 57 tokens where the text tower knows 56" in refused(clip)


def test_a_tokenizer_that_needs_another_package(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("it is there")
    folder = Path(shutil.copytree(folders("siglip"), tmp_path / "siglip"))
    edit(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    assert "requires the SentencePiece library" in refused(folder)


def test_a_folder_without_a_tokenizer(clip: Path) -> None:
    for path in clip.glob("*token*"):
        path.unlink()
    assert "its tokenizer knows no words" in refused(clip)
