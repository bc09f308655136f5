"""Checkpoints: all that a run needs to go on at a step as if nothing had happened.

checkpoints/step-00000120/state.json            where the run was, and the sha256 of the tensors
checkpoints/step-00000120/tensors.safetensors   what trains, its statistics, the optimiser's state
checkpoints/best-00000100.safetensors           the weights that are kept so far, if not the last

Order, dropout and augmentation are functions of seed and step, so no random state is stored. A
checkpoint appears whole or not at all.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.packages import file_sha256, replace_file
from clipkit.train.optim import trained_parameters
from clipkit.train.scores import Scores

_TENSORS = "tensors.safetensors"
_DAMAGED = (OSError, ValueError, KeyError, TypeError)
"""What reading a checkpoint raises that is not whole."""


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """When a run saves what it needs to go on.

    It also does so before each evaluation, at its end, and when a signal stops it.

    Attributes:
        every_steps: steps between two checkpoints; 0 for none by steps.
        every_minutes: minutes between two checkpoints; 0 for none by time.
        keep: how many of the last ones stay.
    """

    every_steps: int = 0
    every_minutes: float = 5.0
    keep: int = 2

    def __post_init__(self) -> None:
        """Check the numbers."""
        problems = [
            f"checkpoints.{name}: {getattr(self, name)} is no number from {low} on"
            for name, low in (("every_steps", 0), ("every_minutes", 0), ("keep", 1))
            if not low <= getattr(self, name) < inf
        ]
        if problems:
            raise ConfigError("checkpoints cannot be used:", problems)


@dataclass(slots=True)
class TrainState:
    """Where a run is.

    Attributes:
        data: fingerprint of what it trains on.
        model: fingerprint of the model that it began with.
        step: steps taken.
        before: scores before the first one.
        kept_step: the step whose weights are kept, when not the last ones.
        kept_value: of the metric that chooses them.
        stale: evaluations since then.
        loss: of the last step, in nats.
        lowest_loss: of the pairs alone, of all steps.
        notes: what was found wrong with the run, by name.
        captions_seen: captions that were looked at.
        captions_cut: how many of them were too long.
        skipped: rows that could not be decoded: id, reason, where.
        log_size: bytes of the log.
    """

    data: str
    model: str
    step: int = 0
    before: Scores = field(default_factory=dict)
    kept_step: int = 0
    kept_value: float | None = None
    stale: int = 0
    loss: float | None = None
    lowest_loss: float = inf
    notes: dict[str, str] = field(default_factory=dict)
    captions_seen: int = 0
    captions_cut: int = 0
    skipped: list[list[str]] = field(default_factory=list)
    log_size: int = 0


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are; made when the first is saved.
        settings: when to save.
        writes: write; false in all but one of several processes.
    """

    def __init__(self, folder: Path, settings: CheckpointSettings, *, writes: bool = True) -> None:
        """Start the clock."""
        self.folder = folder
        self.settings = settings
        self.writes = writes
        self._saved = time.monotonic()

    def due(self, step: int) -> bool:
        """Say whether it is time to save, which another process's clock may see otherwise."""
        every, minutes = self.settings.every_steps, self.settings.every_minutes
        if every and step % every == 0:
            return True
        return bool(minutes) and time.monotonic() - self._saved > 60 * minutes

    def latest(self) -> Path | None:
        """Return the newest checkpoint that is whole; damaged ones are removed."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                whole = json.loads((path / "state.json").read_text(encoding="utf-8"))["sha256"]
                if file_sha256(path / _TENSORS) == whole:
                    return path
            except _DAMAGED:
                pass
            shutil.rmtree(path, ignore_errors=True)
        return None

    def save(self, state: TrainState, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, and remove those that are too many."""
        self._saved = time.monotonic()
        if not self.writes:
            return
        path = self.folder / f"step-{state.step:08}"
        if path.is_dir():
            return
        part = self.folder / f".{path.name}.{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)  # a killed process may have had this very number
        part.mkdir(parents=True)
        try:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / _TENSORS
            )
            _to_disk(part / _TENSORS)
            content = {**asdict(state), "sha256": file_sha256(part / _TENSORS)}
            replace_file(part / "state.json", json.dumps(content, indent=2).encode())
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._tidy(state)

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights that are kept; a later `save` names them."""
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".best.{os.getpid()}"
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part)
            _to_disk(part)
            part.replace(self._best(step))

    def load_best(self, step: int) -> dict[str, Tensor]:
        """Read the weights that were kept at a step."""
        weights: dict[str, Tensor] = load_file(self._best(step))
        return weights

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08}.safetensors"

    def _tidy(self, state: TrainState) -> None:
        """Remove what no checkpoint that stays needs, and what killed processes left."""
        paths = sorted(self.folder.glob("step-*"))
        for path in paths[: -self.settings.keep]:
            shutil.rmtree(path)
        needed = {self._best(state.kept_step)}
        for path in paths[-self.settings.keep : -1]:
            try:
                needed.add(self._best(read_state(path).kept_step))
            except _DAMAGED:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("best-*"):
            if path not in needed:
                path.unlink()
        for path in [*self.folder.glob(".step-*"), *self.folder.glob(".best.*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_state(path: Path) -> TrainState:
    """Read where a run was.

    Raises:
        ConfigError: another version of clipkit wrote it.
    """
    content = json.loads((path / "state.json").read_text(encoding="utf-8"))
    del content["sha256"]
    try:
        return TrainState(**content)
    except TypeError:
        raise ConfigError(
            f"{path} is of another version of clipkit: go on with that one, or begin again with"
            " --restart"
        ) from None


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, views: nn.Module | None = None
) -> dict[str, Tensor]:
    """Return what changes in training: weights, statistics, the optimiser's state by parameter.

    Args:
        model: what trains.
        optimizer: what moves it.
        views: what a run has besides: its head, its copy of a tower, the state of its loss.
    """
    tensors = {f"model.{name}": value for name, value in changing_state(model).items()}
    if views is not None:
        # Copies: a safetensors file holds no tensor twice, and parts of these may be one.
        tensors.update({f"views.{k}": v.detach().clone() for k, v in views.state_dict().items()})
    for name, parameter in trained_parameters(model, views).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_tensors(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    views: nn.Module | None = None,
) -> None:
    """Put back what `training_tensors` gave."""
    tensors = load_file(path / _TENSORS)
    weights: dict[str, dict[str, Tensor]] = {"model": {}, "views": {}}
    states: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        kind, _, name = full.partition(".")
        if kind in weights:
            weights[kind][name] = value
        else:
            key, _, name = name.partition(".")
            states.setdefault(name, {})[key] = value
    model.load_state_dict(weights["model"], strict=False)
    if views is not None:
        views.load_state_dict(weights["views"])
    for name, parameter in trained_parameters(model, views).items():
        if name in states:
            optimizer.state[parameter] = {
                key: _laid_out_as(parameter, value) for key, value in states[name].items()
            }


def changing_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what changes in training: all but frozen parameters."""
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in still}


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Put a value of the optimiser where its parameter is, in the order of memory that it has.

    Fused kernels go through the memory of parameter, gradient and state at once, without a look at
    their strides.
    """
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _to_disk(path: Path) -> None:
    """Return when a file's content is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
