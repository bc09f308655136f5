"""The last steps: whenever they are cut off, the store is the old one or the new one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipkit.embed.export import embed
from clipkit.embed.loop import SAVE_SECONDS
from clipkit.embed.store import EmbeddingStore
from clipkit.models.dual_encoder import DualEncoder
from clipkit.packages import replace_file
from tests.conftest import square
from tests.embed.stores import count_images, same_files

OPTIONS: dict[str, Any] = {"shard_rows": 5, "what": "both"}


def cut_off(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """Have every write and removal count, and the one of a number be the last."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt

    def replace(path: Path, content: bytes) -> None:
        step()
        replace_file(path, content)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.name.endswith((".json", ".parquet", ".part")):
            step()
        remove(self, missing_ok)

    remove = Path.unlink
    for module in ("store", "work", "parts", "finish"):
        monkeypatch.setattr(f"clipkit.embed.{module}.replace_file", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    return lambda: count


def change(folder: Path) -> None:
    (folder / "black0.png").unlink()
    (folder / "blue0.png").write_bytes(b"no picture")
    square("red", 90).save(folder / "zzz.png")


def test_an_update_that_is_cut_off_anywhere(
    model: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SAVE_SECONDS > 0
    embed(model, corrupt, tmp_path / "whole", **OPTIONS)
    old = EmbeddingStore(tmp_path / "whole").embeddings()
    stores = [tmp_path / f"store{after}" for after in range(60)]
    for store in stores:
        shutil.copytree(tmp_path / "whole", store)
    change(corrupt)
    embed(model, corrupt, tmp_path / "whole", max_rejected=0.5, **OPTIONS)
    new = EmbeddingStore(tmp_path / "whole").embeddings()
    assert len(new) != len(old)
    seen: set[int] = set()
    for after, store in enumerate(stores):
        with monkeypatch.context() as cut:
            steps = cut_off(cut, after)
            try:
                embed(model, corrupt, store, max_rejected=0.5, **OPTIONS)
            except KeyboardInterrupt:
                pass
            else:
                assert steps() <= after
                break
        found = EmbeddingStore(store)
        assert found.verify() == []
        seen.add(len(found))
        assert any(np.array_equal(found.embeddings(), each) for each in (old, new))
        embed(model, corrupt, store, max_rejected=0.5, **OPTIONS)
        same_files(store, tmp_path / "whole")
    else:
        raise AssertionError("it has more steps than that")
    assert seen == {len(old), len(new)}


def test_the_fingerprint_is_that_of_the_data(
    model: DualEncoder, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows at both ends that are no pictures, and one that is not there."""
    from clipkit.data import load_data

    for name in ("black0.png", "yellow2.png", "yellow1.png"):
        (corrupt / name).write_bytes(name.encode())
    data = load_data(corrupt)
    (corrupt / "green1.png").unlink()
    images = count_images(model, monkeypatch)
    store = embed(model, data, tmp_path / "store", max_rejected=0.5, **OPTIONS)
    assert sum(images) == store.info.rows - 18 == 13
    assert store.info.data["fingerprint"] == data.fingerprint()
