from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from clipkit.data import load_data
from clipkit.embed import loop, stream
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore, Made
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, DataError, RejectedError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from tests.conftest import square
from tests.embed.stores import count_images, same_files

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
    assert store.made == Made(encoded=18)
    assert sorted(path.name for path in store.path.iterdir()) == [
        "rejects.parquet",
        *(f"shard-0000{number}.parquet" for number in range(3)),
        "store.json",
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embeddings_are_those_of_one_image_at_a_time(
    model: DualEncoder, photos: Path, tmp_path: Path, batch_size: int, dtype: str
) -> None:
    store = embed(
        model, photos, tmp_path / "store", batch_size=batch_size, dtype=dtype, shard_rows=11
    )
    alone = [encode_images(model, [sample.image])[0] for sample in load_data(photos)]
    error = np.abs(store.embeddings() - torch.cat(alone).numpy()).max()
    assert error < (1e-5 if dtype == "float32" else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_so_are_those_of_the_starter(
    starter: DualEncoder, photos: Path, tmp_path: Path, batch_size: int
) -> None:
    store = embed(starter, photos, tmp_path / "store", batch_size=batch_size, what="both")
    data = load_data(photos)
    images = torch.cat([encode_images(starter, [sample.image])[0] for sample in data]).numpy()
    texts = torch.cat([encode_texts(starter, [s.captions[0]]) for s in data]).numpy()
    np.testing.assert_allclose(store.embeddings()[::2], images, rtol=0, atol=1e-5)
    np.testing.assert_allclose(store.embeddings()[1::2], texts, rtol=0, atol=1e-5)


def test_half_precision_stays_near(make_model: Make, photos: Path, tmp_path: Path) -> None:
    model = make_model(image="test_vit")
    whole = embed(model, photos, tmp_path / "float32", what="both")
    model.save(str(tmp_path / "model"))
    half = embed(tmp_path / "model", photos, tmp_path / "bf16", what="both", precision="bf16")
    assert (whole.info.precision, half.info.precision) == ("float32", "bf16")
    assert (whole.embeddings() * half.embeddings()).sum(1).min() > 0.999
    assert not np.array_equal(whole.embeddings(), half.embeddings())
    with pytest.raises(StoreError, match=r"another precision \(float32, not bf16\)"):
        embed(tmp_path / "model", photos, whole.path, what="both", precision="bf16")


def test_captions_and_both(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    (photos / "red0.txt").unlink()
    store = embed(model, photos, tmp_path / "both", what="both", shard_rows=5)
    data = load_data(photos)
    expected = [
        encode
        for sample in data
        for encode in (
            encode_images(model, [sample.image])[0],
            encode_texts(model, sample.captions),
        )
    ]
    np.testing.assert_allclose(
        store.embeddings(), torch.cat(expected).numpy(), rtol=1e-4, atol=1e-5
    )
    only = embed(model, photos, tmp_path / "captions", what="captions")
    texts = encode_texts(model, [text for sample in data for text in sample.captions])
    np.testing.assert_allclose(only.embeddings(), texts.numpy(), rtol=1e-4, atol=1e-5)
    assert (only.info.rows, only.info.skipped, only.info.input_rows) == (17, 1, 17)
    assert (store.info.rows, store.info.skipped, store.info.input_rows) == (35, 0, 35)
    assert only.verify() == store.verify() == []


def test_rejects_and_rows_add_up(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    store = embed(model, corrupt, tmp_path / "store", shard_rows=4)
    assert (store.info.rows, store.info.rejected, store.info.input_rows) == (17, 1, 18)
    told = [(r.id, r.reason, r.where) for r in store.rejects()]
    assert told == [("red1.png", "cannot identify image file", str(corrupt / "red1.png"))]
    assert store.verify() == []
    assert "red1.png" not in store.ids()
    assert store.info.data["fingerprint"] == load_data(corrupt).fingerprint()


def test_too_many_rejects_stop_it(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    (corrupt / "red2.png").write_bytes(b"")
    with pytest.raises(RejectedError, match="max_rejected"):
        embed(model, corrupt, tmp_path / "store")
    assert len(embed(model, corrupt, tmp_path / "store", max_rejected=0.5)) == 16


@pytest.mark.parametrize("what", ["images", "captions", "both"])
@pytest.mark.parametrize("stop_after", [1, 4, 9, 17])
def test_killed_and_run_again_it_gives_the_same_bytes(
    model: DualEncoder,
    corrupt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    what: str,
) -> None:
    """Within a shard as well: each batch is saved, and a shard has several."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(stream, "TEXTS", 2)
    options: dict[str, Any] = {"shard_rows": 10, "batch_size": 2, "what": what}
    embed(model, corrupt, tmp_path / "whole", **options)
    done = 0

    def killed(now: int, total: int | None) -> None:
        nonlocal done
        assert total == 18
        done = now
        if now >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(model, corrupt, tmp_path / "store", **options, progress=killed)
    with pytest.raises(StoreError, match="not finished"):
        EmbeddingStore(tmp_path / "store")
    data = load_data(corrupt)
    rest = encode_images(model, [sample.image for sample in data.samples[done:]])[1]
    images = count_images(model, monkeypatch)
    store = embed(model, corrupt, tmp_path / "store", **options)
    assert sum(images) == (0 if what == "captions" else len(rest))
    same_files(tmp_path / "whole", tmp_path / "store")
    assert store.verify() == []


def test_a_finished_store_is_left_as_it_is(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(model, photos, tmp_path / "store")
    before = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    images = count_images(model, monkeypatch)
    again = embed(model, photos, tmp_path / "store")
    assert not images
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    assert again.made == Made(reused=18)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_made_again(
    model: DualEncoder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    store = embed(model, photos, tmp_path / "store", shard_rows=6)
    path = store.path / "shard-00001.parquet"
    before = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = before[:100] + bytes([before[100] ^ 1]) + before[101:]
        path.write_bytes(flipped if damage == "flip" else before[:-9])
    assert len(EmbeddingStore(store.path).verify()) == 1
    images = count_images(model, monkeypatch)
    again = embed(model, photos, tmp_path / "store", shard_rows=6)
    assert sum(images) == 6
    assert again.made == Made(encoded=6, reused=12, redone=("shard-00001.parquet",))
    assert again.verify() == []
    assert path.read_bytes() == before


def test_other_makings_are_refused(make_model: Make, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    embed(make_model(0), photos, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(StoreError, match=r"another model \(tiny sha256:\w+…, not tiny sha256:"):
        embed(make_model(1), photos, out)
    with pytest.raises(StoreError, match=r"another dtype \(float32, not float16\)"):
        embed(make_model(0), photos, out, dtype="float16")
    with pytest.raises(StoreError, match=r"another what \(images, not both\)"):
        embed(make_model(0), photos, out, what="both")
    with pytest.raises(StoreError, match=r"another shard_rows \(10000, not 7\)"):
        embed(make_model(0), photos, out, shard_rows=7)
    other = make_model(0)
    other.preprocessing = type(other.preprocessing)(32, (0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    with pytest.raises(StoreError, match=r"another preprocessing: std \(\[0.5, 0.5, 0.5\], not"):
        embed(other, photos, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="no embedding store"):
        embed(make_model(0), photos, elsewhere)
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.txt"]


def test_options_that_cannot_be_used(model: DualEncoder, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    options: tuple[tuple[dict[str, Any], str], ...] = (
        ({"dtype": "float8"}, "did you mean 'float16'|dtype"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_rejected": 2}, "max_rejected"),
    )
    for wrong, word in options:
        with pytest.raises(ConfigError, match=word):
            embed(model, classes, out, **wrong)
    with pytest.raises(DataError, match="no captions"):
        embed(model, classes, out, what="captions")
    assert not out.exists()


def test_a_list_of_files(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    files: list[str | Path] = [photos / "red0.png", str(photos / "blue1.png"), photos / "red0.png"]
    store = embed(model, files, tmp_path / "store", max_rejected=0.5)
    expected = encode_images(model, [photos / "red0.png", photos / "blue1.png"])[0]
    np.testing.assert_allclose(store.embeddings(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert store.ids() == [str(file) for file in files[:2]]
    assert [reject.reason for reject in store.rejects()] == ["path is listed twice"]


def test_every_source_gives_the_same(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    """A folder, a table of paths, and one of bytes; their columns come along."""
    names = sorted(path.name for path in photos.glob("*.png"))
    frame = pd.DataFrame(
        {
            "image": [(photos / name).read_bytes() for name in names],
            "id": names,
            "year": range(len(names)),
            "rating": [None, *[0.5] * 17],
            "tags": [["a", name] for name in names],
        }
    )
    frame.to_parquet(tmp_path / "bytes.parquet")
    frame.drop(columns=["tags"]).assign(image=names).to_csv(photos / "paths.csv", index=False)
    stores = [
        embed(model, source, tmp_path / f"store{number}", shard_rows=7)
        for number, source in enumerate((photos, photos / "paths.csv", tmp_path / "bytes.parquet"))
    ]
    for store in stores[1:]:
        np.testing.assert_array_equal(store.embeddings(), stores[0].embeddings())
        assert store.ids() == names
        assert store.verify() == []
    read = pd.concat([pd.read_parquet(stores[2].path / s.file) for s in stores[2].info.shards])
    assert list(read["year"]) == list(range(18))
    assert read["tags"].iloc[1] == '["a", "black1.png"]'
    assert read["rating"].dtype == np.float64


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


def test_the_model_is_left_as_it_was(model: DualEncoder, tmp_path: Path) -> None:
    model.train()
    square("red").save(tmp_path / "a.png")
    before: dict[str, Tensor] = {name: t.clone() for name, t in model.state_dict().items()}
    embed(model, [tmp_path / "a.png"], tmp_path / "store")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
