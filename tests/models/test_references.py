from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.references import copy_state, fill, read_tensors, refer


def test_a_model_of_no_hub_keeps_all_its_weights(model: DualEncoder) -> None:
    state = dict(model.state_dict())
    architecture = dict(model.architecture)
    refer(model, architecture, state, "reference")
    assert set(state) == set(model.state_dict())
    assert architecture["base"] is None


def test_weights_that_changed_elsewhere_are_refused(model: DualEncoder, tmp_path: Path) -> None:
    architecture = {**model.architecture, "base": {"name": "hf:/no/such", "image_tower": "0"}}
    with pytest.raises(ModelError, match="its base hf:/no/such cannot be loaded"):
        fill(model, architecture, {}, tmp_path / "model.safetensors")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    copy_state(own, {"a": torch.ones(2), "b": torch.ones(3)}, "here")
    assert own["a"].tolist() == [1, 1]
    with pytest.raises(ModelError, match=r"here does not fit its description: b \(and 0 more\)"):
        copy_state(own, {"a": torch.ones(2)}, "here")
    with pytest.raises(ModelError, match=r"here: b is \(1,\), not \(3,\)"):
        copy_state(own, {"a": torch.ones(2), "b": torch.ones(1)}, "here")
    with pytest.raises(ModelError, match="lacks its file w"):
        read_tensors(tmp_path / "w")
    save_file(own, tmp_path / "w")
    assert set(read_tensors(tmp_path / "w")) == {"a", "b"}
    (tmp_path / "w").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read_tensors(tmp_path / "w")
