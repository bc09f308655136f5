from pathlib import Path

import open_clip
import pytest
import torch
from transformers import AutoModel

from clipkit.models import load
from clipkit.models.states import open_clip_state, transformers_state
from tests.models.open_clip_folders import FAMILIES, make_folder
from tests.models.test_from_transformers import KINDS
from tests.models.test_from_transformers import make_folder as make_transformers_folder


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"coca"}))
def test_names_and_values_are_open_clips(family: str, tmp_path: Path) -> None:
    folder = make_folder(family, tmp_path / "a")
    theirs = open_clip.create_model(
        f"local-dir:{folder}", force_custom_text=True, pretrained_text=False
    )
    mine = open_clip_state(load(f"open_clip:{folder}"))
    expected = theirs.state_dict()
    assert set(mine) == set(expected)
    assert all(torch.equal(mine[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", list(KINDS))
def test_names_and_values_are_transformers(kind: str, tmp_path: Path) -> None:
    folder = make_transformers_folder(kind, tmp_path / "a")
    mine, expected = transformers_state(load(f"hf:{folder}")), AutoModel.from_pretrained(folder)
    state = expected.state_dict()
    assert set(mine) == set(state)
    for name, value in state.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-7)
