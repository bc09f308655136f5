"""Small siblings of open_clip's architectures, as folders that open_clip itself can load."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast, MT5Config, PreTrainedTokenizerFast, RobertaConfig

WORDS = (
    "a photo of the red cat dog smiling woman in an orange space suit cup with spoon & on".split()
)
CAPTIONS = [
    "a photo of a cat",
    "  A smiling woman, in an orange_space suit!  ",
    "caf\u00c3\u00a9 &amp; a spoon on the dog",
    "",
    "the red dog " * 40,
    "the face of a tabby cat looking to the side",
]


def _tiny(name: str, base: str, **settings: Any) -> str:
    """Register a small sibling of a timm model."""

    def entry(pretrained: bool = False, **given: Any) -> torch.nn.Module:
        drop = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
        given = {key: value for key, value in given.items() if key not in drop}
        model: torch.nn.Module = timm.create_model(base, pretrained=False, **settings, **given)
        return model

    entry.__name__ = name
    if not timm.is_model(name):
        register_model(entry)
    return name


VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2}
SIGLIP = _tiny("tiny_siglip", "vit_base_patch16_siglip_224", img_size=32, **VIT)
PE = _tiny("tiny_pe", "vit_pe_core_tiny_patch16_384", img_size=32, **VIT)
GAP = _tiny("tiny_gap", "vit_medium_patch16_gap_256", img_size=32, **VIT)
EVA = _tiny("tiny_eva", "eva02_base_patch16_clip_224", img_size=32, **VIT)
CLIP_L = _tiny("tiny_clip", "vit_large_patch14_clip_224", img_size=28, **VIT)
FASTVIT = _tiny("tiny_fastvit", "fastvit_mci0", embed_dims=(8, 16, 32, 64), layers=(1, 1, 1, 1))
SWIN = _tiny(
    "tiny_swin",
    "swin_base_patch4_window7_224",
    embed_dim=16,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 1, 1),
)


def sentencepieces(folder: Path, *, vocabulary: int = 80, pad: str = "</s>") -> None:
    """Save a tokenizer like those of SigLIP and mT5: no first token, an end, padding."""
    tokens = ["<pad>", "</s>", "<unk>", *(f"\u2581{word}" for word in WORDS)]
    tokens += [chr(at) for at in range(97, 123)] + ["\u2581"]
    assert len(tokens) <= vocabulary
    tokenizer = Tokenizer(
        models.Unigram([(token, -float(at)) for at, token in enumerate(tokens)], 2)
    )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token=pad
    ).save_pretrained(folder)


def padded_with_zero(folder: Path) -> None:
    """Save a tokenizer that pads with another token than its end."""
    sentencepieces(folder, pad="<pad>")


def wordpieces(folder: Path) -> None:
    """Save a tokenizer like BERT's."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ",", "!"]
    BertTokenizerFast(vocab={token: at for at, token in enumerate(tokens)}).save_pretrained(folder)


def roberta(folder: Path) -> None:
    """Save a tokenizer and the configuration of a small RoBERTa."""
    RobertaConfig(
        vocab_size=80,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=80,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    ).save_pretrained(folder)
    padded_with_zero(folder)


def mt5(folder: Path) -> None:
    """Save a tokenizer and the configuration of a small mT5."""
    MT5Config(
        vocab_size=80, d_model=32, d_ff=40, d_kv=16, num_layers=2, num_heads=2, pad_token_id=0
    ).save_pretrained(folder)
    padded_with_zero(folder)


@dataclass(frozen=True)
class Family:
    """How a family's small sibling is made from one of open_clip's configurations.

    Attributes:
        base: open_clip's name of the configuration.
        tag: one of its tags, for the preprocessing; empty for CLIP's.
        vision: what is smaller in the image tower.
        text: what is smaller in the text tower.
        files: saves further files, such as a tokenizer.
        shortens: texts may be cut to their length.
    """

    base: str
    tag: str
    vision: dict[str, Any]
    text: dict[str, Any] = field(default_factory=dict)
    files: Callable[[Path], None] | None = None
    shortens: bool = True


NATIVE = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 48}
TEXT = {"width": 32, "heads": 2, "layers": 2}
PIECES = {**TEXT, "vocab_size": 80, "hf_tokenizer_name": "local"}
FAMILIES = {
    "vit": Family("ViT-B-32", "laion2b_s34b_b79k", NATIVE, TEXT),
    "quickgelu": Family("ViT-B-16-quickgelu", "openai", NATIVE, TEXT),
    "resnet": Family(
        "RN50", "openai", {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, TEXT
    ),
    "convnext": Family(
        "convnext_base", "laion400m_s13b_b51k", {"timm_model_name": "test_convnext"}, TEXT
    ),
    "convnext_mlp": Family(
        "convnext_large_d", "laion2b_s26b_b102k_augreg", {"timm_model_name": "test_convnext"}, TEXT
    ),
    "siglip": Family(
        "ViT-B-16-SigLIP",
        "webli",
        {"timm_model_name": SIGLIP, "image_size": 32},
        PIECES,
        sentencepieces,
        shortens=False,
    ),
    "siglip2": Family(
        "ViT-B-16-SigLIP2",
        "webli",
        {"timm_model_name": SIGLIP, "image_size": 32},
        PIECES,
        padded_with_zero,
        shortens=False,
    ),
    "mobileclip": Family(
        "MobileCLIP-S1",
        "datacompdr",
        {"timm_model_name": FASTVIT},
        TEXT,
        shortens=False,
    ),
    "mobileclip2": Family(
        "MobileCLIP2-L-14",
        "dfndr2b",
        {"timm_model_name": CLIP_L, "image_size": 28},
        TEXT,
        shortens=False,
    ),
    "eva": Family(
        "EVA02-B-16", "merged2b_s8b_b131k", {"timm_model_name": EVA, "image_size": 32}, TEXT
    ),
    "coca": Family(
        "coca_ViT-B-32",
        "laion2b_s13b_b90k",
        {**NATIVE, "attn_pooler_heads": 2},
        TEXT,
        shortens=False,
    ),
    "timm_vit": Family(
        "vit_medium_patch16_gap_256", "", {"timm_model_name": GAP, "image_size": 32}, TEXT
    ),
    "swin": Family("swin_base_patch4_window7_224", "", {"timm_model_name": SWIN}, TEXT),
    "pe_core": Family("PE-Core-T-16-384", "meta", {"timm_model_name": PE, "image_size": 32}, TEXT),
    "roberta": Family("roberta-ViT-B-32", "laion2b_s12b_b32k", NATIVE, {}, roberta),
    "mt5": Family("mt5-base-ViT-B-32", "", NATIVE, {}, mt5),
    "clipa": Family(
        "ViT-L-14-CLIPA",
        "datacomp1b",
        NATIVE,
        {**PIECES, "context_length": 20},
        wordpieces,
        shortens=False,
    ),
    "worldwide": Family(
        "ViT-H-14-worldwide-quickgelu",
        "metaclip2_worldwide",
        NATIVE,
        {**PIECES, "eos_id": 1},
        padded_with_zero,
    ),
}


def make_folder(name: str, folder: Path, *, dim: int = 24) -> Path:
    """Write a small sibling of a family with random weights, in open_clip's layout."""
    family = FAMILIES[name]
    config = open_clip.get_model_config(family.base)
    width = 48 if config["vision_cfg"].get("timm_proj") == "none" else dim
    config["embed_dim"] = width
    config["vision_cfg"].update(family.vision)
    config["text_cfg"].update(family.text)
    if "multimodal_cfg" in config:
        config["multimodal_cfg"].update(TEXT)
    folder.mkdir(parents=True, exist_ok=True)
    if family.files:
        family.files(folder)
        if config["text_cfg"].get("hf_model_name"):
            config["text_cfg"]["hf_model_name"] = str(folder)
    preprocess = open_clip.get_pretrained_cfg(family.base, family.tag) if family.tag else {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    description = {
        "model_cfg": config,
        "preprocess_cfg": {key: preprocess[key] for key in keys if key in preprocess},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    with torch.no_grad():
        for value in model.parameters():
            scale = 0.05 if value.ndim < 2 else 0.02 + float(value.std())
            value.add_(torch.randn_like(value) * scale)
        side = model.visual.preprocess_cfg["size"]
        side = side if isinstance(side, int) else side[0]
        model.visual.train()  # batch statistics that let the pictures' differences through
        for _ in range(20):
            model.visual(torch.randn(8, 3, 1, 1) + torch.randn(8, 3, side, side))
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder
