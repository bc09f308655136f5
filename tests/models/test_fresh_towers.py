from pathlib import Path

import pytest
import torch

from clipkit.errors import ModelError
from clipkit.models import fresh_towers, load
from clipkit.models.starter import TEXT_WEIGHTS

TEXTS = ["a red square", "two cats on a long brown sofa in the sun"]


def test_nothing_in_it_was_trained_before() -> None:
    torch.manual_seed(0)
    first = fresh_towers("test_vit", text_width=64, text_layers=1, dim=12)
    other = fresh_towers("test_vit", text_width=64, text_layers=1, dim=12)
    torch.manual_seed(0)
    again = fresh_towers("test_vit", text_width=64, text_layers=1, dim=12)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    packaged = {tuple(value.shape): value for value in TEXT_WEIGHTS.read().values()}
    for value in first.text_tower.state_dict().values():
        same = packaged.get(tuple(value.shape))
        assert same is None or not torch.equal(same, value)


def test_towers_have_the_sizes_that_were_asked_for() -> None:
    model = fresh_towers("test_vit", text_width=128, text_layers=2, context_length=9, dim=12)
    assert model.encode_image(torch.randn(2, 3, 160, 160)).shape == (2, 12)
    assert model.preprocessing.size == 160
    bert = model.get_submodule("text_tower.model")
    assert len(bert.encoder.layer) == 2  # type: ignore[union-attr, arg-type]
    assert bert.encoder.layer[0].attention.self.num_attention_heads == 2  # type: ignore
    tokens = model.tokenize(TEXTS)
    assert tokens["input_ids"].shape == (2, 9)
    assert model.text_tower(tokens).shape == (2, 128)


def test_a_convolutional_tower_may_see_smaller_pictures() -> None:
    own = fresh_towers("test_efficientnet", text_width=64, text_layers=1).preprocessing
    small = fresh_towers("test_efficientnet", size=own.size // 2, text_width=64, text_layers=1)
    assert small.preprocessing.size == own.size // 2
    assert own.resize_to is not None
    assert small.preprocessing.resize_to == pytest.approx(own.resize_to / 2, abs=1)
    assert small.encode_image(torch.randn(1, 3, 80, 80)).shape == (1, 256)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = fresh_towers("test_efficientnet", text_width=64, text_layers=1, projection="mlp")
    model.save(str(tmp_path / "model"))
    again = load(tmp_path / "model")
    assert again.fingerprint() == model.fingerprint()
    with torch.inference_mode():
        torch.testing.assert_close(
            again.encode_text(again.tokenize(TEXTS)), model.encode_text(model.tokenize(TEXTS))
        )


@pytest.mark.parametrize("image", ["vit_tiny_patch16_224", "levit_128s"])
def test_a_tower_for_one_size_is_built_for_that_which_is_asked(image: str, tmp_path: Path) -> None:
    model = fresh_towers(image, size=64, text_width=64, text_layers=1, dim=12)
    assert model.preprocessing.size == 64
    images = torch.rand(2, 3, 64, 64)
    model.save(str(tmp_path / "model"))
    again = load(str(tmp_path / "model"))
    with torch.inference_mode():
        assert model.encode_image(images).shape == (2, 12)
        torch.testing.assert_close(again.encode_image(images), model.encode_image(images))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"text_width": 100}, "text_width: 100 is no multiple of 64"),
        ({"text_layers": 0}, "text_layers: 0 is less than 1"),
        ({"context_length": 2}, "context_length: 2 is less than 3"),
        ({"size": 8}, "size: vit_tiny_patch16_224 takes no pictures of 8 pixels"),
    ],
)
def test_sizes_that_no_tower_has(options: dict[str, int], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        fresh_towers("vit_tiny_patch16_224", **options)  # type: ignore[arg-type]
