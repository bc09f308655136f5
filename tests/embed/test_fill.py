"""Trouble while a store is written: what is said, what is left, and how it goes on."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clipkit.data import load_data
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.errors import RejectedError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.packages import replace_file
from tests.conftest import square
from tests.embed.stores import count_images, same_files

OPTIONS: dict[str, Any] = {"shard_rows": 10, "batch_size": 2}


@pytest.mark.parametrize("fails_at", range(9))
def test_a_full_disk_is_one_sentence_and_the_work_goes_on(
    model: DualEncoder,
    corrupt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    """Whichever file it is that no longer fits."""
    embed(model, corrupt, tmp_path / "whole", **OPTIONS)
    written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        if written == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += 1
        replace_file(path, content)

    for module in ("store", "work", "parts", "finish"):
        monkeypatch.setattr(f"clipkit.embed.{module}.replace_file", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device; mend that"):
        embed(model, corrupt, tmp_path / "store", **OPTIONS)
    for module in ("store", "work", "parts", "finish"):
        monkeypatch.setattr(f"clipkit.embed.{module}.replace_file", replace_file)
    embed(model, corrupt, tmp_path / "store", **OPTIONS)
    same_files(tmp_path / "whole", tmp_path / "store")


@pytest.mark.slow
def test_a_real_full_disk(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    """Of a process that may write no more than some kilobytes to a file."""
    model.save(str(tmp_path / "model"))
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from clipkit.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    words = ["embed", str(photos), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "s")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert embed(model, photos, tmp_path / "s").verify() == []


def test_a_folder_that_vanishes_half_way(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, away = tmp_path / "many", tmp_path / "away"
    folder.mkdir()
    for number in range(300):
        square("red", number, (8, 8)).save(folder / f"{number:03d}.png")
    options: dict[str, Any] = {"shard_rows": 120, "batch_size": 4}
    embed(model, folder, tmp_path / "whole", **options)
    data = load_data(folder)

    def vanish(done: int, total: int | None) -> None:
        if done == 160:
            folder.rename(away)

    with pytest.raises(RejectedError, match=r"file not found.*max_rejected"):
        embed(model, data, tmp_path / "store", **options, progress=vanish)
    away.rename(folder)
    images = count_images(model, monkeypatch)
    done = embed(model, data, tmp_path / "store", **options)
    assert 110 <= sum(images) <= 180
    assert done.info.rejected == 0
    assert done.verify() == []
    assert done.ids() == EmbeddingStore(tmp_path / "whole").ids()


def test_a_file_that_could_not_be_read_is_tried_again(
    model: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is no picture is not."""
    data = load_data(corrupt)
    (corrupt / "blue2.png").rename(tmp_path / "blue2.png")
    first = embed(model, data, tmp_path / "store", **OPTIONS, max_rejected=0.2)
    assert [(r.id, r.reason) for r in first.rejects()] == [
        ("blue2.png", "file not found"),
        ("red1.png", "cannot identify image file"),
    ]
    (tmp_path / "blue2.png").rename(corrupt / "blue2.png")
    images = count_images(model, monkeypatch)
    again = embed(model, data, tmp_path / "store", **OPTIONS)
    assert sum(images) == 1
    assert [reject.id for reject in again.rejects()] == ["red1.png"]
    assert again.ids() == [sample.id for sample in data if sample.id != "red1.png"]
    assert again.verify() == []


def test_two_exports_at_once(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(done: int, total: int | None) -> None:
        if done == 4:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    def other() -> None:
        with pytest.raises(StoreError, match="another clipkit writes into") as error:
            embed(model, photos, tmp_path / "store", **OPTIONS)
        refused.append(str(error.value))

    assert embed(model, photos, tmp_path / "store", **OPTIONS, progress=second).verify() == []
    assert len(refused) == 1
