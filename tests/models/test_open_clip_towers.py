from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from transformers import BertTokenizerFast

from clipkit.errors import ModelError
from clipkit.models.open_clip_tokenizers import OpenClipTokenizer
from clipkit.models.open_clip_towers import (
    OpenClipTextTower,
    build_open_clip,
    fill,
    shortens,
    take_image_projection,
    take_text_projection,
)
from clipkit.models.tokenizers import TransformersTokenizer

TEXT = {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}


def text_tower(**settings: Any) -> nn.Module:
    """Build a small text tower of open_clip with random weights."""
    torch.manual_seed(0)
    text = open_clip.transformer.TextTransformer(**TEXT, output_dim=8, **settings)
    with torch.no_grad():
        for value in text.parameters():
            value.normal_(std=0.3)
    return OpenClipTextTower(text, shortens=False).eval()


@pytest.mark.parametrize("cls", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pool", ["first", "last", "argmax", "eos"])
def test_texts_may_be_cut_exactly_where_that_changes_nothing(
    pool: str, causal: bool, cls: bool
) -> None:
    """The rule and the truth, for everything that a configuration of open_clip can say."""
    tower = text_tower(pool_type=pool, no_causal_mask=not causal, embed_cls=cls, eos_id=59)
    full = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((3, 6, 8)):
        full[row, :length] = torch.randint(1, 58, (length,))
        full[row, length - 1] = 59
    with torch.no_grad():
        whole, cut = tower({"input_ids": full}), tower({"input_ids": full[:, :8]})
    may = shortens(tower.model, OpenClipTokenizer(12))
    assert may == ((whole - cut).abs().max().item() < 1e-6)
    assert may == (causal and not cls and pool != "last")


def test_the_padding_must_not_be_taken_for_the_text(tokenizer: BertTokenizerFast) -> None:
    """Where padding has the largest number, or that of the end, it is what the tower reads."""
    tower = text_tower(pool_type="argmax").model
    words = TransformersTokenizer(tokenizer, 12)
    assert tokenizer.pad_token_id == 0
    assert shortens(tower, words)
    tokenizer.pad_token, before = "dog", tokenizer.pad_token
    try:
        assert not shortens(tower, words)
        eos = text_tower(pool_type="eos", eos_id=tokenizer.pad_token_id).model
        assert not shortens(eos, words)
    finally:
        tokenizer.pad_token = before
    tokenizer.padding_side = "left"
    try:
        assert not shortens(tower, words)
    finally:
        tokenizer.padding_side = "right"


def test_a_tower_and_its_projection_give_what_the_whole_gave() -> None:
    """A ResNet's projection lies within its attention; it comes out and nothing changes."""
    torch.manual_seed(0)
    visual = open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 24, 4, 64, 8).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = visual(images)
        projection = take_image_projection(visual)
        torch.testing.assert_close(projection(visual(images)), whole, rtol=1e-5, atol=1e-6)
    assert visual(images).shape == (2, 256)
    assert not any("c_proj" in name for name in visual.state_dict())


def test_problems_of_a_fit_are_told_with_their_number() -> None:
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": TEXT}
    model = build_open_clip(config, None)
    state = dict(model.state_dict())
    state["visual.proj"] = torch.zeros(3, 3)
    state["odd"] = state.pop("visual.conv1.weight")
    with pytest.raises(ModelError) as caught:
        fill(model, state, source="file.pt")
    assert str(caught.value) == (
        "file.pt does not fit the model: lacks visual.conv1.weight; has the unknown odd;"
        " visual.proj is (3, 3), not (32, 8)"
    )


def test_published_weights_are_fitted_as_open_clip_does() -> None:
    """Another grid of patches is resized, but only for a tag: a file for another size is none."""
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": TEXT, "init_logit_bias": -10}
    large = build_open_clip(config, None)
    small = build_open_clip({**config, "vision_cfg": {**vision, "image_size": 16}}, None)
    state = small.state_dict()
    del state["logit_bias"]
    with pytest.raises(
        ModelError, match=r"lacks logit_bias; visual\.positional_embedding is \(5, 32"
    ):
        fill(large, dict(state), source="file.pt")
    fill(large, dict(state), source="file.pt", published=True)
    assert large.logit_bias.item() == 0
    torch.testing.assert_close(
        large.visual.positional_embedding[0], state["visual.positional_embedding"][0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_is_built_and_parted(name: str) -> None:
    """Without numbers, on the meta device; towers of transformers are taken for open_clip's."""
    config = open_clip.get_model_config(name)
    config["text_cfg"].pop("hf_model_name", None)
    with torch.device("meta"):
        model = build_open_clip(config, None)
        image_projection = take_image_projection(model.visual)
        text_projection = take_text_projection(model.text)
        size = config["vision_cfg"].get("image_size", 224)
        features = model.visual.eval()(torch.randn(1, 3, size, size))
        tokens = torch.zeros(1, config["text_cfg"].get("context_length", 77), dtype=torch.long)
        texts = model.text.eval()(tokens)
    assert image_projection(features).shape == (1, config["embed_dim"])
    assert text_projection(texts).shape == (1, config["embed_dim"])
