import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.train import checkpoint
from clipkit.train.checkpoint import (
    Checkpoints,
    CheckpointSettings,
    TrainState,
    changing_state,
    read_state,
    restore_tensors,
    training_tensors,
)
from clipkit.train.optim import OptimSettings, build_optimizer

TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3)}


def state(step: int, kept_step: int = 0) -> TrainState:
    return TrainState("data", "model", step=step, kept_step=kept_step)


def saved(folder: Path, steps: range | list[int], **settings: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, CheckpointSettings(**settings))
    for step in steps:
        checkpoints.save(state(step), TENSORS)
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Convolution(nn.Module):
    """A convolution whose weight lies channels last, a number, and something that stays."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        self.conv: nn.Module = conv
        self.norm = nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.still = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        return self.scale * features.square().mean() + features.sin().sum()


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    trains = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trains, lr=0.1, weight_decay=0.1, fused=True)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(images.to(memory_format=torch.channels_last)).backward()
    optimizer.step()


def bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    tensors = training_tensors(model, optimizer)
    return {k: v.detach().contiguous().numpy().tobytes() for k, v in tensors.items()}


def test_a_model_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    """Also where a weight lies in memory in another order than its sizes say."""
    model = Convolution()
    optimizer = optimizer_of(model)
    for seed in range(3):
        take_step(model, optimizer, seed)
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    checkpoints.save(state(3), training_tensors(model, optimizer))
    path = checkpoints.latest()
    assert path is not None
    other = Convolution()
    other.still.load_state_dict(model.still.state_dict())
    fresh = optimizer_of(other)
    restore_tensors(path, other, fresh)
    assert bits(other, fresh) == bits(model, optimizer)
    weight = dict(other.named_parameters())["conv.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for parameter, values in fresh.state.items():
        assert values["exp_avg"].stride() == parameter.stride()
        assert values["step"].dtype == torch.float32
    for seed in range(3, 6):
        take_step(model, optimizer, seed)
        take_step(other, fresh, seed)
    assert bits(other, fresh) == bits(model, optimizer)


def test_a_count_of_steps_keeps_its_precision(tmp_path: Path) -> None:
    """A number has the shape of the count, and may be held in half of its bits."""
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW(module.parameters())
    optimizer.state[module.scale] = {"step": torch.tensor(1001.0)}
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    checkpoints.save(state(1), training_tensors(module, optimizer))
    restore_tensors(tmp_path / "step-00000001", module, optimizer)
    assert optimizer.state[module.scale]["step"].item() == 1001.0


def test_what_is_frozen_is_not_stored(model: DualEncoder) -> None:
    set_trainable(model, "projections")
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    buffers = set(model.state_dict()) - {name for name, _ in model.named_parameters()}
    assert set(changing_state(model)) == trains | buffers
    optimizer = build_optimizer(model, OptimSettings())
    assert set(training_tensors(model, optimizer)) == {f"model.{n}" for n in trains | buffers}


def test_a_state_comes_back(tmp_path: Path) -> None:
    whole = TrainState(
        data="sha256:a",
        model="sha256:b",
        step=7,
        before={"data": {"mine": {"r1": 0.1}}},
        kept_step=5,
        kept_value=0.30000000000000004,
        stale=2,
        loss=1.1,
        lowest_loss=0.7,
        notes={"stuck": "the sentence"},
        captions_seen=4,
        captions_cut=1,
        skipped=[["a.png", "empty", "data"]],
        log_size=99,
    )
    Checkpoints(tmp_path, CheckpointSettings()).save(whole, TENSORS)
    assert read_state(tmp_path / "step-00000007") == whole
    first = TrainState("a", "b", step=8)  # no step had a loss: infinity
    Checkpoints(tmp_path, CheckpointSettings()).save(first, TENSORS)
    assert read_state(tmp_path / "step-00000008") == first


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    saved(tmp_path, range(1, 6), keep=3)
    assert names(tmp_path) == ["step-00000003", "step-00000004", "step-00000005"]
    saved(tmp_path, [100], keep=1)
    assert names(tmp_path) == ["step-00000100"]


def test_best_weights_stay_as_long_as_a_checkpoint_needs_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, CheckpointSettings(keep=2))
    kept = 0
    checkpoints.save_best(0, TENSORS)
    for step in range(1, 9):
        checkpoints.save(state(step, kept), TENSORS)
        for path in tmp_path.glob("step-*"):
            checkpoints.load_best(read_state(path).kept_step)
        if step in (3, 6):  # scored after it was saved
            checkpoints.save_best(step, TENSORS)
            kept = step
        best = list(tmp_path.glob("best-*"))
        assert len(best) <= 3
    assert names(tmp_path) == ["best-00000006.safetensors", "step-00000007", "step-00000008"]
    loaded = checkpoints.load_best(6)
    assert torch.equal(loaded["model.weight"], TENSORS["model.weight"])


def damage_tensors(path: Path) -> None:
    file = path / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        damage_tensors,
        lambda path: (path / "tensors.safetensors").unlink(),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_bytes(b""),
        lambda path: (path / "state.json").write_bytes(b"\xff{"),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "state.json").write_text("{}"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    checkpoints = saved(tmp_path, [2, 4], keep=3)
    damage(tmp_path / "step-00000004")
    assert checkpoints.latest() == tmp_path / "step-00000002"
    assert names(tmp_path) == ["step-00000002"]
    damage(tmp_path / "step-00000002")
    assert checkpoints.latest() is None


def test_an_older_one_that_is_damaged_stops_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [2, 4], keep=4)
    (tmp_path / "step-00000002" / "state.json").unlink()
    checkpoints.save(state(6), TENSORS)
    assert names(tmp_path) == ["step-00000004", "step-00000006"]


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", CheckpointSettings()).latest() is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [os.getpid(), 1], ids=["own", "another"])
def test_leftovers_of_killed_processes_go(tmp_path: Path, number: int) -> None:
    """Also where the one that was killed had the number that this one has, as in containers."""
    half = tmp_path / f".step-00000002.{number}"
    half.mkdir(parents=True)
    (half / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / f".best.{number}").write_bytes(b"half")
    checkpoints = saved(tmp_path, [2])
    assert names(tmp_path) == ["step-00000002"]
    assert checkpoints.latest() == tmp_path / "step-00000002"


@pytest.mark.parametrize("where", ["save_file", "replace_file", "_to_disk"])
def test_it_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    checkpoints = saved(tmp_path, [1])

    def full(*_: object) -> None:
        assert checkpoints.latest() == tmp_path / "step-00000001"
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, where, full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(state(2), TENSORS)
    assert names(tmp_path) == ["step-00000001"]


def test_the_digest_is_that_of_the_tensors(tmp_path: Path) -> None:
    import hashlib

    saved(tmp_path, [1])
    path = tmp_path / "step-00000001"
    told = json.loads((path / "state.json").read_text())["sha256"]
    assert told == hashlib.sha256((path / "tensors.safetensors").read_bytes()).hexdigest()


def test_all_but_one_process_write_nothing(tmp_path: Path) -> None:
    other = Checkpoints(tmp_path, CheckpointSettings(), writes=False)
    other.save(state(1), TENSORS)
    other.save_best(1, TENSORS)
    assert not names(tmp_path)


def test_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_steps = Checkpoints(tmp_path, CheckpointSettings(every_steps=3, every_minutes=0))
    by_time = Checkpoints(tmp_path, CheckpointSettings(every_minutes=2))
    never = Checkpoints(tmp_path, CheckpointSettings(every_minutes=0))
    assert [step for step in range(1, 10) if by_steps.due(step)] == [3, 6, 9]
    now += 119
    assert not by_time.due(1)
    now += 2
    assert by_time.due(1)
    by_time.save(state(1), TENSORS)
    assert not by_time.due(2)
    now += 1e6
    assert by_time.due(2)
    assert not by_steps.due(2)
    assert not never.due(2)


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        CheckpointSettings(every_steps=-1, every_minutes=float("nan"), keep=0)
    assert caught.value.problems == (
        "checkpoints.every_steps: -1 is no number from 0 on",
        "checkpoints.every_minutes: nan is no number from 0 on",
        "checkpoints.keep: 0 is no number from 1 on",
    )
