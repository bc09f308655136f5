import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertTokenizerFast

from clipkit.errors import ConfigError, ModelError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.lora import add_lora, lora_parameters, merge_lora
from clipkit.train.interpolate import interpolated, parse_alphas, same_weights
from clipkit.types import Preprocessing
from tests.models.small import encoded, small_model, transformers_model

Make = Callable[..., DualEncoder]


@torch.no_grad()
def tuned_from(model: DualEncoder) -> DualEncoder:
    """Return a copy whose every parameter and buffer differs, as after training."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for value in tuned.state_dict().values():
        if value.is_floating_point():
            value.mul_(1 + torch.rand(value.shape, generator=generator)).add_(0.01)
        else:
            value.fill_(1)
    return tuned


@torch.no_grad()
def shaken(model: DualEncoder, seed: int = 3) -> DualEncoder:
    """Return a copy with adapters that are as if trained."""
    model = copy.deepcopy(model)
    add_lora(model, rank=2)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora_parameters(model):
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def bits(model: DualEncoder) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().numpy().tobytes()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_every_number_is_on_the_line(make_model: Make, alpha: float) -> None:
    base = make_model(projection="mlp")
    tuned = tuned_from(base)
    mixed = interpolated(base, tuned, alpha)
    one, other = base.state_dict(), tuned.state_dict()
    kinds = {"floating": 0, "other": 0}
    for name, value in mixed.state_dict().items():
        if value.is_floating_point():
            expected = (1 - alpha) * one[name].double() + alpha * other[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
            assert not torch.equal(value, other[name])
        else:
            assert torch.equal(value, other[name])
        kinds["floating" if value.is_floating_point() else "other"] += 1
        if name.endswith("running_var"):
            assert (value > 0).all()
    assert min(kinds.values()) > 1
    scale = base.logit_scale.item() ** (1 - alpha) * tuned.logit_scale.item() ** alpha
    assert mixed.logit_scale.item() == pytest.approx(scale, rel=1e-5)
    assert not mixed.training


def test_the_ends_are_the_two_models_bit_for_bit(make_model: Make) -> None:
    base = make_model()
    tuned = tuned_from(base)
    with torch.no_grad():
        base.image_projection.get_parameter("linear.bias").fill_(-0.0)
        tuned.text_projection.get_parameter("linear.bias").fill_(-0.0)
    before = bits(base), bits(tuned)
    for alpha, model in ((0, base), (1, tuned)):
        mixed = interpolated(base, tuned, alpha)
        assert bits(mixed) == bits(model)
        assert mixed.fingerprint() == model.fingerprint()
        theirs = {value.data_ptr() for m in (base, tuned) for value in m.state_dict().values()}
        assert not theirs & {value.data_ptr() for value in mixed.state_dict().values()}
    interpolated(base, tuned, 0.5)
    assert (bits(base), bits(tuned)) == before


def test_what_is_equal_in_both_keeps_its_bits(make_model: Make) -> None:
    base = make_model()
    with torch.no_grad():
        next(base.image_tower.parameters())[0].fill_(-0.0)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.log_logit_scale.add_(0.5)
    mixed = interpolated(base, tuned, 0.3)
    assert same_weights(base, tuned, "image_tower")
    different = {name for name, value in bits(mixed).items() if value != bits(base)[name]}
    assert different == {"log_logit_scale"}


@pytest.mark.parametrize("kind", ["open_clip", "test_resnet"])
def test_adapters_are_merged_first(
    kind: str, make_model: Make, tokenizer: BertTokenizerFast
) -> None:
    base = small_model(kind, make_model, tokenizer)
    tuned = shaken(base)
    halfway = copy.deepcopy(tuned)  # a change B A is halved where B is
    with torch.no_grad():
        for name, parameter in halfway.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.5)
    before = bits(tuned)
    assert bits(interpolated(base, tuned, 0)) == bits(base)
    for alpha, model in ((0.5, halfway), (1, tuned)):
        mixed = interpolated(base, tuned, alpha)
        assert "lora" not in mixed.architecture
        for mine, expected in zip(encoded(mixed), encoded(model), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert bits(tuned) == before
    assert "lora" in tuned.architecture


def test_adapters_on_both(make_model: Make) -> None:
    base, tuned = shaken(make_model(), seed=1), shaken(make_model(), seed=2)
    one, other = (merge_lora(copy.deepcopy(m)).state_dict() for m in (base, tuned))
    mixed = interpolated(base, tuned, 0.25).state_dict()
    for name in (name for name in mixed if mixed[name].is_floating_point()):
        expected = 0.75 * one[name] + 0.25 * other[name]
        torch.testing.assert_close(mixed[name], expected, rtol=1e-5, atol=1e-6)


def test_a_weight_with_two_names_is_moved_once(make_model: Make) -> None:
    base = make_model()
    for projection in (base.image_projection, base.text_projection):
        linear = projection.get_submodule("linear")
        linear.twin = linear.weight
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.image_projection.get_parameter("linear.weight").add_(1.0)
    add_lora(tuned, rank=2)  # the copy that is merged is then written over in place
    mixed = interpolated(base, tuned, 0.5)
    linear = mixed.image_projection.get_submodule("linear")
    assert linear.twin is linear.weight
    expected = base.image_projection.get_parameter("linear.weight") + 0.5
    torch.testing.assert_close(linear.get_parameter("weight"), expected)


def test_where_weights_are_from_makes_no_difference(make_model: Make) -> None:
    base, tuned = make_model(), make_model()
    base.architecture["image_tower"]["weights"] = {"package": "one", "state_sha256": "0"}
    tuned.architecture["base"] = {"name": "open_clip:one/two"}
    interpolated(base, tuned, 0.5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_and_its_saved_descendant(kind: str, tmp_path: Path) -> None:
    base = transformers_model(kind, tmp_path)
    tuned_from(base).save(str(tmp_path / "tuned"))
    tuned = load(tmp_path / "tuned")
    mixed = interpolated(base, tuned, 0.5)
    mixed.save(str(tmp_path / "mixed"), base="inside")
    again = load(tmp_path / "mixed")
    assert again.fingerprint() == mixed.fingerprint()
    made_of = {"alpha": 0.5, "base": base.fingerprint(), "tuned": tuned.fingerprint()}
    assert again.architecture["interpolation"] == made_of
    if again.logit_bias is not None and base.logit_bias is not None:
        assert again.logit_bias != base.logit_bias
    interpolated(base, again, 0.5)


def prepared_otherwise(model: DualEncoder) -> None:
    model.preprocessing = Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def used_otherwise(model: DualEncoder) -> None:
    model.similarity = "sigmoid"


def read_otherwise(model: DualEncoder) -> None:
    model.long_texts = "pieces"


def cut_otherwise(model: DualEncoder) -> None:
    model.tokenizer.context_length = 8


def cleaned_otherwise(model: DualEncoder) -> None:
    tokenizer: Any = model.tokenizer
    tokenizer.clean = "whitespace"


def shaped_otherwise(model: DualEncoder) -> None:
    model.image_projection.get_submodule("linear").bias = nn.Parameter(torch.zeros(3))


def halved(model: DualEncoder) -> None:
    model.tower_digests = {"image_tower": "0"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (prepared_otherwise, "preprocessing.size is 32 in the one and 64 in the other"),
        (used_otherwise, "similarity is 'softmax' in the one and 'sigmoid'"),
        (read_otherwise, "long_texts is 'head' in the one and 'pieces'"),
        (cut_otherwise, "tokenizer.context_length is 16 in the one and 8"),
        (cleaned_otherwise, "tokenizer.mask is absent in the one and True"),
        (shaped_otherwise, r"image_projection.linear.bias is \(16,\) in the one and \(3,\)"),
        (halved, "bf16 and cannot be interpolated: load it with precision float32"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    make_model: Make, change: Callable[[DualEncoder], None], words: str
) -> None:
    base, tuned = make_model(), make_model()
    change(tuned)
    with pytest.raises(ModelError, match=words):
        interpolated(base, tuned, 0.5)


def test_models_that_are_built_otherwise_are_refused(
    make_model: Make, tokenizer: BertTokenizerFast
) -> None:
    words = "projection.projection is 'linear' in the one and 'mlp' in the other"
    with pytest.raises(ModelError, match=f"tiny and tiny cannot be interpolated: arch.*{words}"):
        interpolated(make_model(), make_model(projection="mlp"), 0.5)
    with pytest.raises(ModelError, match=r"architecture\.kind is 'paired_towers'.*'open_clip'"):
        interpolated(make_model(), small_model("open_clip", make_model, tokenizer), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_an_alpha_that_is_no_share(model: DualEncoder, alpha: float) -> None:
    with pytest.raises(ConfigError, match="is not a share of the way"):
        interpolated(model, model, alpha)


def test_alphas_as_they_are_written() -> None:
    assert parse_alphas("0:1:0.1") == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert parse_alphas("0.2 : 0.9 : 0.3") == (0.2, 0.5, 0.8)
    assert parse_alphas("0.5:0.5:0.1") == (0.5,)
    assert parse_alphas("0, 0.3,1") == (0.0, 0.3, 1.0)
    assert parse_alphas("0.25") == (0.25,)
    assert len(parse_alphas("0:1:0.001")) == 1001


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is neither"),
        ("0,half", "'0,half' is neither start:stop:step nor a list such as 0,0.5,1"),
        ("0:1", "is neither"),
        ("0:1:nan", "is neither"),
        ("inf", "is neither"),
        ("0:1:0", "goes nowhere"),
        ("1:0:0.1", "goes nowhere"),
        ("0:1:1e-9", "1000000001; at most 1001"),
        ("0,2", "2 is not a share of the way"),
        ("-0.5:1:0.5", "-0.5 is not a share of the way"),
    ],
)
def test_alphas_that_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_alphas(text)
