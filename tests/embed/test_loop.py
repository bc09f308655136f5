"""One process at work: stopped by a signal, a row or the device, it keeps what it has."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipkit.data.preprocess import load_pixels
from clipkit.embed import loop
from clipkit.embed.export import embed
from clipkit.errors import DataError, Interrupted
from clipkit.models.dual_encoder import DualEncoder
from tests.embed.stores import count_images, same_files

OPTIONS: dict[str, Any] = {"shard_rows": 10, "batch_size": 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_what_there_is(
    model: DualEncoder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    embed(model, photos, tmp_path / "whole", **OPTIONS)
    before = signal.getsignal(number)

    def ask(done: int, total: int | None) -> None:
        if done == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=rf"{number.name}: 8 of 18 rows are done") as stopped:
        embed(model, photos, tmp_path / "store", **OPTIONS, progress=ask)
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) == before
    images = count_images(model, monkeypatch)
    embed(model, photos, tmp_path / "store", **OPTIONS)
    assert sum(images) == 10
    same_files(tmp_path / "whole", tmp_path / "store")


@pytest.mark.parametrize("error", [MemoryError("out of it"), ZeroDivisionError("a bug")])
def test_a_thread_that_breaks_names_its_row(
    model: DualEncoder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    embed(model, photos, tmp_path / "whole", **OPTIONS)
    count = 0

    def breaks(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 13:
            raise error
        return load_pixels(*given)

    monkeypatch.setattr("clipkit.embed.stream.load_pixels", breaks)
    sentence = rf"row '\w+\.png' broke its reader: {type(error).__name__}: {error}"
    with pytest.raises(DataError, match=sentence):
        embed(model, photos, tmp_path / "store", **OPTIONS)
    monkeypatch.setattr("clipkit.embed.stream.load_pixels", load_pixels)
    embed(model, photos, tmp_path / "store", **OPTIONS)
    same_files(tmp_path / "whole", tmp_path / "store")


def test_a_batch_that_fails_loses_nothing_before_it(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is free again as well, in the same process."""
    encode: Callable[..., Any] = model.encode_image
    counts: list[int] = []

    def breaks(images: Any) -> Any:
        counts.append(len(images))
        if len(counts) == 5:
            raise RuntimeError("the device is gone")
        return encode(images)

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(model, "encode_image", breaks)
    with pytest.raises(RuntimeError, match="the device is gone"):
        embed(model, photos, tmp_path / "store", **OPTIONS)
    assert embed(model, photos, tmp_path / "store", **OPTIONS).verify() == []
    assert sum(counts[5:]) == 18 - sum(counts[:4])
