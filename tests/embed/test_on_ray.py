"""On a cluster of this machine, in a process of its own: Ray does not leave one as it was."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.embed import on_ray
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.errors import ConfigError, MissingExtraError
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import COLOURS, square
from tests.embed.stores import same_files

PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
import ray
from clipkit.embed.on_ray import embed_with_ray

model, data, out = sys.argv[1:]
victims = []

def kill():
    work = Path(out) / ".work"
    while not any((work / "parts").glob("*/*.part")):
        time.sleep(0.02)
    name = next(work.glob("joined-*"))
    victims.append(int(name.read_text()))
    os.kill(victims[0], signal.SIGKILL)

if os.environ.get("KILL"):
    threading.Thread(target=kill, daemon=True).start()
store = embed_with_ray(model, data, out, workers=2, shard_rows=700, batch_size=3, what="both")
print("verified", store.verify(), store.made, "killed", len(victims))
assert not ray.is_initialized()
"""


def test_without_ray(model: DualEncoder, photos: Path, tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "clipkit\[ray\]"'):
        on_ray.embed_with_ray("starter", photos, tmp_path / "store", workers=2)
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        on_ray.embed_with_ray("starter", photos, tmp_path / "store", workers=0)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("killed", [0, 1])
def test_two_actors_write_what_one_process_writes(
    model: DualEncoder, tmp_path: Path, killed: int
) -> None:
    """Also where one of them is killed half-way."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1500):
        square(list(COLOURS)[number % 6], number).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text("a photo\n")
    model.save(str(tmp_path / "model"))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "KILL": "1" * killed,
    }
    words = [str(tmp_path / name) for name in ("model", "many", "store")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "verified [] Made(encoded=3000, reused=0" in done.stdout
    assert done.stdout.strip().endswith(f"killed {killed}")
    options = {"shard_rows": 700, "batch_size": 3}
    embed(load(tmp_path / "model"), folder, tmp_path / "one", what="both", **options)  # type: ignore[arg-type]
    same_files(tmp_path / "one", tmp_path / "store")
    assert EmbeddingStore(tmp_path / "store").verify() == []
