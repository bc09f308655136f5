from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from clipkit.data import load_data
from clipkit.embed import export
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, DataError, RejectedError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import ImageSource

Make = Callable[..., DualEncoder]


def test_a_folder_becomes_a_store(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    store = embed(model, photos, tmp_path / "store", shard_rows=7)
    data = load_data(photos)
    expected, _, _ = encode_images(model, [sample.image for sample in data])
    assert len(store) == 18
    assert [shard.rows for shard in store.info.shards] == [7, 7, 4]
    np.testing.assert_allclose(store.embeddings(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert store.ids() == [sample.id for sample in data]
    assert store.verify() == []
    assert store.info.data["fingerprint"] == data.fingerprint()


def test_captions_and_both(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    store = embed(model, photos, tmp_path / "both", what="both", shard_rows=5)
    texts = [sample.captions[0] for sample in load_data(photos)]
    np.testing.assert_allclose(
        store.embeddings()[1::2], encode_texts(model, texts).numpy(), rtol=1e-4, atol=1e-5
    )
    only = embed(model, photos, tmp_path / "captions", what="captions")
    np.testing.assert_allclose(only.embeddings(), store.embeddings()[1::2], rtol=1e-4, atol=1e-5)


def test_rejects_and_rows_add_up(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    store = embed(model, corrupt, tmp_path / "store", shard_rows=4)
    assert (store.info.rows, store.info.rejected, store.info.input_rows) == (17, 1, 18)
    assert [(r.id, r.reason) for r in store.rejects()] == [
        ("red1.png", "cannot identify image file")
    ]
    assert store.verify() == []
    assert "red1.png" not in store.ids()


def test_too_many_rejects_stop_it(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    (corrupt / "red2.png").write_bytes(b"")
    with pytest.raises(RejectedError, match="max_rejected"):
        embed(model, corrupt, tmp_path / "store")
    assert len(embed(model, corrupt, tmp_path / "store", max_rejected=0.5)) == 16


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_killed_and_run_again_it_gives_the_same_bytes(
    model: DualEncoder,
    corrupt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    whole = embed(model, corrupt, tmp_path / "whole", shard_rows=4)
    written = 0
    write = export._write_shard

    def killed(*arguments: object, **keywords: object) -> None:
        nonlocal written
        if written == stop_after:
            raise KeyboardInterrupt
        written += 1
        write(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(model, corrupt, tmp_path / "store", shard_rows=4)
    monkeypatch.setattr(export, "_write_shard", write)
    if (tmp_path / "store" / "store.json").exists():
        with pytest.raises(StoreError, match="not finished"):
            EmbeddingStore(tmp_path / "store")
    encoded: list[int] = []

    def counted(model: DualEncoder, images: list[ImageSource | None], **keywords: Any) -> Any:
        encoded.append(len(images))
        return encode_images(model, images, **keywords)

    monkeypatch.setattr(export, "encode_images", counted)
    store = embed(model, corrupt, tmp_path / "store", shard_rows=4)
    assert sum(encoded) == 18 - 4 * stop_after
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "store" / path.name).read_bytes() == path.read_bytes(), path.name
    assert store.verify() == []
    assert len(whole) == len(store)


def test_a_finished_store_is_returned_at_once(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(model, photos, tmp_path / "store")
    monkeypatch.setattr(export, "encode_images", None)
    assert len(embed(model, photos, tmp_path / "store")) == len(first)


def test_a_damaged_shard_is_made_again(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    store = embed(model, photos, tmp_path / "store", shard_rows=6)
    before = (store.path / "shard-00001.parquet").read_bytes()
    (store.path / "shard-00001.parquet").write_bytes(before[:-9])
    assert EmbeddingStore(store.path).verify() == [
        "shard-00001.parquet was changed after it was written (sha256 differs)"
    ]
    again = embed(model, photos, tmp_path / "store", shard_rows=6)
    assert again.verify() == []
    assert (store.path / "shard-00001.parquet").read_bytes() == before


def test_other_inputs_are_refused(make_model: Make, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    embed(make_model(0), photos, out)
    with pytest.raises(StoreError, match="another model"):
        embed(make_model(1), photos, out)
    with pytest.raises(StoreError, match="another dtype"):
        embed(make_model(0), photos, out, dtype="float16")
    (photos / "red0.txt").write_text("changed")
    with pytest.raises(StoreError, match="another data"):
        embed(make_model(0), photos, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="no embedding store"):
        embed(make_model(0), photos, other)


def test_options_that_cannot_be_used(model: DualEncoder, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    for options, word in (
        ({"dtype": "float8"}, "did you mean 'float16'|dtype"),
        ({"shard_rows": 0}, "shard_rows"),
    ):
        with pytest.raises(ConfigError, match=word):
            embed(model, classes, out, **options)
    with pytest.raises(DataError, match="no captions"):
        embed(model, classes, out, what="captions")
    assert not out.exists()


def test_pandas_and_datasets_read_the_shards(
    model: DualEncoder, classes: Path, tmp_path: Path
) -> None:
    store = embed(model, classes, tmp_path / "store", dtype="float16")
    frame = pd.read_parquet(store.path / "shard-00000.parquet")
    assert list(frame["label"][:2]) == ["black", "black"]
    stacked = np.stack(frame["embedding"].to_list()).astype(np.float32)
    np.testing.assert_array_equal(stacked, store.embeddings())
    read = datasets.Dataset.from_parquet(
        str(store.path / "shard-00000.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert len(read) == len(store) == 12
    assert len(read[0]["embedding"]) == model.dim
    norms = torch.from_numpy(stacked).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(12), rtol=2e-3, atol=2e-3)
