import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipkit.embed import negatives
from clipkit.embed.mine import mine_negatives, read_contents
from clipkit.embed.negatives import Limits
from clipkit.embed.store import EmbeddingStore
from clipkit.errors import ConfigError, StoreError
from tests.embed.made_stores import make_store, unit


def of_both(folder: Path, dim: int = 8) -> EmbeddingStore:
    """Return a store of 12 images with two captions each, in which some things are there twice.

    Images 0 and 1 have the same bytes, 2 and 3 a caption in common, 4 and 5 a label.
    """
    ids = [str(image) for image in range(12) for _ in range(3)]
    kinds = ["image", "text", "text"] * 12
    captions = [f"{image} {word}" for image in range(12) for word in ("a", "a", "b")]
    captions[3 * 2 + 2], captions[3 * 3 + 1] = "The  SAME", "the same "
    labels = ["x" if id in ("4", "5") else None for id in ids]
    digests = [f"{id} {kind} {row}" for row, (id, kind) in enumerate(zip(ids, kinds, strict=True))]
    digests[0] = digests[3] = "equal"
    digests[8] = digests[10] = "equal texts"
    images, noise = unit(12, dim), unit(36, dim, seed=1)
    mixed = np.repeat(images, 3, axis=0) + 0.8 * noise
    return make_store(
        folder,
        mixed / np.linalg.norm(mixed, axis=1, keepdims=True),
        kinds=kinds,
        what="both",
        ids=ids,
        shard_rows=7,
        columns={"caption": captions, "label": labels, "sha256": digests},
    )


FALSE = {frozenset("01"): "image", frozenset("23"): "caption", frozenset("45"): "label"}


@pytest.mark.parametrize("among", ["image", "text"])
@pytest.mark.parametrize("anchors", ["image", "text"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_table_is_that_of_a_search_by_hand(
    tmp_path: Path, anchors: str, among: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negatives, "_ANCHORS", 10)
    store = of_both(tmp_path / "store")
    out = tmp_path / f"negatives.{suffix}"
    mined = mine_negatives(store, out, k=4, anchors=anchors, among=among, limits=Limits(0.8))
    if suffix == "parquet":
        table = pq.read_table(out).to_pylist()
    else:
        table = [json.loads(line) for line in out.read_text().splitlines()]
    told = store.rows_at(range(36))
    vectors = store.embeddings().astype(np.float64)
    scores = vectors @ vectors.T
    skipped = {"image": 0, "caption": 0, "label": 0, "score": 0}
    assert [line["row"] for line in table] == [r for r in range(36) if told[r]["kind"] == anchors]
    for line in table:
        row = line["row"]
        image = 3 * (row // 3)
        own = [image] if anchors == "text" else [image + 1, image + 2]
        positive = 1.0 if anchors == among else max(scores[row][other] for other in own)
        assert line["positive"] == pytest.approx(positive, abs=1e-6)
        assert (line["id"], line["caption"]) == (told[row]["id"], told[row]["caption"])
        ceiling = positive - 0.2 * abs(positive)
        good: list[int] = []
        candidates = [r for r in range(36) if told[r]["kind"] == among and r // 3 != row // 3]
        for place, other in enumerate(sorted(candidates, key=lambda r: -scores[row][r])):
            pair = frozenset((told[row]["id"], told[other]["id"]))
            if pair not in FALSE and scores[row][other] <= ceiling:
                good.append(other)
            elif place < 4:
                skipped[FALSE.get(pair, "score")] += 1
        assert line["negative_rows"] == good[:4]
        assert line["negative_ids"] == [told[other]["id"] for other in good[:4]]
        assert line["negative_captions"] == [told[other]["caption"] for other in good[:4]]
        np.testing.assert_allclose(line["scores"], scores[row][good[:4]], atol=1e-6)
    assert dict(mined.skipped) == skipped
    assert mined.negatives == sum(len(line["scores"]) for line in table)
    assert mined.short == sum(len(line["scores"]) < 4 for line in table)
    assert (mined.anchors, mined.unpaired) == (len(table), 0)
    assert [line["row"] for line in mined.first] == [line["row"] for line in table][:10]


def test_labels_count_unless_they_are_not_to(tmp_path: Path) -> None:
    store = of_both(tmp_path / "store")
    limits = Limits(None)
    with_labels = mine_negatives(store, k=30, among="image", limits=limits)
    without = mine_negatives(store, k=30, among="image", limits=limits, labels=False)
    assert with_labels.skipped == {"image": 2, "caption": 2, "label": 2, "score": 0}
    assert without.skipped == {"image": 2, "caption": 2, "score": 0}
    assert without.negatives == with_labels.negatives + 2 == 12 * 11 - 4


def test_kinds_are_those_of_the_store(tmp_path: Path) -> None:
    both = mine_negatives(of_both(tmp_path / "both"))
    assert both.first[0]["row"] == 0
    assert all(row % 3 for row in both.first[0]["negative_rows"])
    embeddings = unit(9, 4)
    images = mine_negatives(make_store(tmp_path / "images", embeddings), k=2)
    assert images.anchors == 9  # made without hashes of the images
    store = make_store(tmp_path / "texts", embeddings, kinds=["text"] * 9, what="captions")
    assert mine_negatives(store, k=2).anchors == 9
    with pytest.raises(StoreError, match="has no image rows or no text rows"):
        mine_negatives(store, anchors="image")
    with pytest.raises(ConfigError, match="among must be 'image' or 'text', not 'pixels'"):
        mine_negatives(store, among="pixels")


def test_a_row_without_a_positive_has_the_other_limits(tmp_path: Path) -> None:
    embeddings = np.array([[1, 0], [0, 1], [0.8, 0.6]])
    kinds = ["image", "image", "text"]
    store = make_store(tmp_path / "s", embeddings, kinds=kinds, what="both", ids=["a", "b", "b"])
    mined = mine_negatives(store, k=2)
    assert (mined.unpaired, mined.short) == (1, 2)
    assert [(line["positive"], line["negative_rows"]) for line in mined.first] == [
        (None, [2]),
        (pytest.approx(0.6), []),
    ]
    assert mine_negatives(store, k=2, limits=Limits(max_score=0.7)).skipped["score"] == 1


def test_an_empty_caption_is_no_caption(tmp_path: Path) -> None:
    columns: dict[str, Sequence[str | None]] = {
        "caption": ["", " ", None, "a"],
        "label": [None, None, None, ""],
    }
    contents, _ = read_contents(make_store(tmp_path / "s", unit(4, 3), columns=columns))
    for name in contents.names:
        assert len(contents.equal(name, np.arange(4), np.arange(4))[0]) == 0


def test_nothing_is_written_over_or_left_half(tmp_path: Path) -> None:
    store = of_both(tmp_path / "store")
    out = tmp_path / "there.jsonl"
    out.write_text("mine\n")
    with pytest.raises(StoreError, match="is there already"):
        mine_negatives(store, out)
    with pytest.raises(StoreError, match=r"ends in none of .parquet, .jsonl"):
        mine_negatives(store, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="k must be"):
        mine_negatives(store, tmp_path / "b.parquet", k=0)
    assert out.read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "there.jsonl"]
