from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipkit.data import load_data
from clipkit.embed.clip_score import filter_pairs, score_pairs
from clipkit.embed.export import embed
from clipkit.embed.store import EmbeddingStore
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, StoreError
from clipkit.models.dual_encoder import DualEncoder
from tests.embed.made_stores import make_store, unit


@pytest.fixture
def store(model: DualEncoder, photos: Path, tmp_path: Path) -> EmbeddingStore:
    for number, name in enumerate(["red0", "blue2"]):
        (photos / f"{name}.txt").write_text(f"a good cat\nthe {name} dog\npicture {number}\n")
    (photos / "green1.png").write_bytes(b"no picture")
    return embed(model, photos, tmp_path / "store", what="both", shard_rows=4)


def by_hand(model: DualEncoder, photos: Path) -> list[tuple[str, str, float]]:
    found = []
    for sample in load_data(photos):
        if sample.id == "green1.png":
            continue
        image = encode_images(model, [sample.image])[0]
        for caption in sample.captions:
            score = (image @ encode_texts(model, [caption]).T).item()
            found.append((sample.id, caption, score))
    return found


def test_scores_are_cosines_of_pairs(
    store: EmbeddingStore, model: DualEncoder, photos: Path
) -> None:
    found = [
        (id, caption, score)
        for _, texts, scores in score_pairs(store)
        for id, caption, score in zip(
            texts["id"].to_pylist(), texts["caption"].to_pylist(), scores.tolist(), strict=True
        )
    ]
    expected = by_hand(model, photos)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([r[2] for r in found], [r[2] for r in expected], atol=1e-4)


@pytest.mark.parametrize("by", ["keep", "min_score"])
def test_what_is_kept_can_be_loaded(
    store: EmbeddingStore, model: DualEncoder, photos: Path, tmp_path: Path, by: str
) -> None:
    pairs = by_hand(model, photos)
    scores = sorted((score for _, _, score in pairs), reverse=True)
    count = int(0.4 * len(pairs))
    between = (scores[count - 1] + scores[count]) / 2
    options = {"keep": 0.4} if by == "keep" else {"min_score": between}
    found = filter_pairs(store, tmp_path / "kept", **options)  # type: ignore[arg-type]
    best = [(id, caption) for id, caption, score in pairs if score > between]
    assert (found.pairs, found.kept) == (len(pairs), len(best)) == (21, 8)
    assert found.threshold == pytest.approx(scores[count - 1], abs=1e-4)
    assert {reject.reason for reject in found.unpaired} == {"caption without an image"}
    assert found.manifest is not None
    data = load_data(found.manifest)
    assert [(s.id, caption) for s in data for caption in s.captions] == best
    assert len(data) == found.images == len({id for id, _ in best})
    assert not data.rejects
    original = {sample.id: sample.image for sample in load_data(photos)}
    for sample in data:
        assert isinstance(sample.image, Path)
        assert sample.image.samefile(original[sample.id])  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "kept" / "scores.parquet").to_pylist()
    assert [(row["id"], row["caption"]) for row in table if row["kept"]] == best
    assert len(table) == len(pairs)


def test_a_store_without_files_gives_the_scores_alone(tmp_path: Path) -> None:
    kinds, ids = ["image", "text"] * 5, [str(row // 2) for row in range(10)]
    store = make_store(tmp_path / "store", unit(10, 4), kinds=kinds, ids=ids, what="both")
    found = filter_pairs(store, tmp_path / "kept", keep=0.5)
    assert (found.pairs, found.kept, found.images, found.manifest) == (5, 2, 2, None)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["scores.parquet"]


def test_what_cannot_be_filtered(store: EmbeddingStore, photos: Path, tmp_path: Path) -> None:
    for options in ({}, {"keep": 0.5, "min_score": 0.1}, {"keep": 0.0}, {"min_score": 2.0}):
        with pytest.raises(ConfigError):
            filter_pairs(store, tmp_path / "kept", **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"no pair has a score of 1; the best has"):
        filter_pairs(store, tmp_path / "kept", min_score=1.0)
    with pytest.raises(StoreError, match="is there already"):
        filter_pairs(store, photos, keep=0.5)
    with pytest.raises(StoreError, match="--what both"):
        filter_pairs(make_store(tmp_path / "b", unit(3, 4)), tmp_path / "kept", keep=0.5)
    photos.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="there is no image"):
        filter_pairs(store, tmp_path / "kept", keep=0.5)
