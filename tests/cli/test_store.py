from pathlib import Path

import numpy as np
import pytest

from clipkit.embed.store import EmbeddingStore
from tests.cli.conftest import Run
from tests.embed.made_stores import make_store, unit


@pytest.fixture
def store(run: Run, saved: Path, corrupt: Path) -> Path:
    out = corrupt.parent / "store"
    words = ["--model", saved, "--out", out, "--what", "both", "--shard-rows", 10]
    assert run("embed", corrupt, *words).code == 0
    return out


def test_a_whole_store(run: Run, store: Path) -> None:
    result = run("store", "verify", store)
    assert result.code == 0
    assert "35 rows in 2 shards, 1 rejected, of 36" in result.out


def test_verify_says_what_to_do_again(run: Run, store: Path, saved: Path, corrupt: Path) -> None:
    path = store / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    result = run("store", "verify", store)
    assert result.code == 1
    assert "shard-00001.parquet was changed" in result.out
    assert "to be done again: rows 20 to 35 of the input" in result.out
    words = ["--model", saved, "--out", store, "--what", "both", "--shard-rows", 10]
    assert run("embed", corrupt, *words).code == 0
    assert run("store", "verify", store).code == 0


def test_verify_of_a_store_that_is_not_finished(run: Run, store: Path) -> None:
    info = EmbeddingStore(store).info
    info.shards, info.rows, info.complete = [], 0, False
    info.write(store)
    result = run("store", "verify", store)
    assert result.code == 1
    assert "not finished: rows of the input are left" in result.out


def test_what_is_inside(run: Run, store: Path, saved: Path) -> None:
    result = run("store", "info", store)
    assert result.code == 0
    for words in (
        "17 of kind image, 18 of kind text",
        "1 of 36",
        "16 numbers, float32",
        saved.name,
    ):
        assert words in result.out
    (further,) = (line for line in result.out.splitlines() if "further columns" in line)
    assert "sha256" not in further
    shown = run("store", "head", store, "-n", 3)
    assert shown.code == 0
    assert shown.out.count("black0.png") >= 2
    first = EmbeddingStore(store).embeddings()[0, 0]
    assert f"{first:+.3f}" in shown.out


def test_an_index_and_what_is_told_of_it(run: Run, store: Path) -> None:
    made = run("store", "index", store, "--kind", "image")
    assert made.code == 0
    assert "17 image rows: recall@10 1.000" in made.out
    assert "recall@10 1.000 on 17 rows" in run("store", "info", store).out
    info = EmbeddingStore(store).info
    info.shards = info.shards[:-1]
    info.rows -= 5
    info.write(store)
    assert "made before the rows changed" in run("store", "info", store).out


def test_an_index_that_misses_too_much_fails(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path / "store", unit(2_000, 64))
    words = ["--connectivity", 2, "--expansion", 1, "--recall", 1]
    result = run("store", "index", tmp_path / "store", *words)
    assert result.code == 1
    assert "raise --connectivity or --expansion" in result.err


def test_to_npy_and_back(run: Run, store: Path, saved: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "npy", tmp_path / "again"
    result = run("store", "convert", store, out, "--to", "npy")
    assert result.code == 0
    assert "17 rows in 2 files" in result.out
    assert "1 rows have no partner" in result.out
    back = run("store", "convert", out, again, "--to", "parquet", "--model", saved)
    assert back.code == 0
    assert "34 rows of 16 numbers" in back.out
    before = EmbeddingStore(store).embeddings()
    np.testing.assert_allclose(EmbeddingStore(again).embeddings()[:2], before[:2], atol=1e-3)
    for words, sentence in (
        ([out, again, "--to", "parquet"], "needs --model"),
        ([store, out, "--to", "csv"], "known: npy, parquet"),
        ([store, out, "--to", "npy", "--normalise"], "are for --to parquet"),
        ([store, out, "--to", "npy"], "is there already"),
    ):
        refused = run("store", "convert", *words)
        assert refused.code == 2
        assert sentence in refused.err


def test_what_is_no_store(run: Run, tmp_path: Path) -> None:
    for verb in ("verify", "info", "head", "index", "duplicates", "outliers"):
        result = run("store", verb, tmp_path)
        assert result.code == 2
        assert "no store.json" in result.err
