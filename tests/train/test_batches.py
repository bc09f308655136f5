import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipkit.data import Dataset, load_data
from clipkit.data.dataset import label_key, text_key
from clipkit.data.label_captions import caption_labels
from clipkit.data.sources import Source, Sources
from clipkit.encode import encode_texts
from clipkit.errors import ConfigError, DataError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.sentences import LongCaptions
from clipkit.train.batches import BatchSettings, PairBatch, PairBatches
from clipkit.train.feature_cache import FeatureCache
from clipkit.types import Sample


def batches(
    model: DualEncoder, data: Dataset | Sources, tmp_path: Path, **options: object
) -> PairBatches:
    names = {f.name for f in fields(BatchSettings)} & set(options)
    settings = BatchSettings(**{"batch_size": 6, **{name: options.pop(name) for name in names}})  # type: ignore[arg-type]
    cache = FeatureCache(tmp_path / "cache")
    return PairBatches(model, data, cache, settings, **{"seed": 0, **options})  # type: ignore[arg-type]


def passed(model: DualEncoder, batch: PairBatch) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
    """Return a batch as the model takes it."""
    (part,) = batch.parts(model, None)
    return part.on_device(model)


def seen(epoch: list[PairBatch]) -> Counter[tuple[int, int]]:
    return Counter(
        pair
        for batch in epoch
        for pair in zip(batch.image_keys.tolist(), batch.text_keys.tolist(), strict=True)
    )


def test_cached_and_live_batches_hold_the_same_pairs(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    data = load_data(photos)
    set_trainable(model, "projections")
    cached = batches(model, data, tmp_path)
    set_trainable(model, "all")
    live = batches(model, data, tmp_path)
    for epoch in range(2):
        pairs = list(zip(cached.epoch(epoch), live.epoch(epoch), strict=True))
        assert len(pairs) == len(cached) == 3
        for mine, other in pairs:
            assert torch.equal(mine.image_keys, other.image_keys)
            assert torch.equal(mine.text_keys, other.text_keys)
            model.eval()
            with torch.inference_mode():
                pixels, tokens = passed(model, other)
                images, texts = model.image_tower(pixels), model.text_tower(tokens)
            torch.testing.assert_close(mine.images, images, rtol=1e-3, atol=1e-4)
            assert isinstance(mine.texts, torch.Tensor)
            torch.testing.assert_close(mine.texts, texts, rtol=1e-3, atol=1e-4)


def test_each_row_once_an_epoch_with_one_of_its_captions(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    for path in photos.glob("*.txt"):
        path.write_text(f"{path.stem}\nthe {path.stem}\n")
    data = load_data(photos)
    set_trainable(model, "projections")
    pairs = batches(model, data, tmp_path)
    counts = [seen(list(pairs.epoch(epoch))) for epoch in range(8)]
    for count in counts:
        assert sorted(image for image, _ in count) == sorted(data.image_keys())
    assert len(set().union(*counts)) > 30  # both captions are drawn
    assert counts[0] == seen(list(pairs.epoch(0)))
    assert pairs.captions is not None
    assert pairs.text_features is not None
    features = encode_texts(model, pairs.captions.texts, encode=model.text_tower)
    torch.testing.assert_close(pairs.text_features, features, rtol=1e-4, atol=1e-5)


def test_equal_content_has_equal_keys(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "red0.png", photos / "green0.png")
    (photos / "blue0.txt").write_text("A  photo of a RED square")
    data = load_data(photos)
    pairs = batches(model, data, tmp_path, batch_size=18)
    batch = next(iter(pairs.epoch(0)))
    assert len(batch.image_keys.unique()) == 17
    assert len(batch.text_keys.unique()) == 6
    counts = Counter(batch.text_keys.tolist())
    assert sorted(counts.values()) == [2, 3, 3, 3, 3, 4]


@pytest.mark.parametrize("trainable", ["projections", "all"])
def test_captions_made_of_one_label_have_one_key(
    model: DualEncoder, classes: Path, tmp_path: Path, trainable: str
) -> None:
    data = caption_labels(load_data(classes), ["a photo of a {}.", "{}", "one {}", "some {}"])
    set_trainable(model, trainable)
    pairs = batches(model, data, tmp_path, batch_size=len(data), number_captions=True)
    assert pairs.captions is not None
    batch = next(iter(pairs.epoch(0)))
    assert batch.caption_numbers is not None
    shown = [pairs.captions.texts[at] for at in batch.caption_numbers.tolist()]
    labels = [data[row].label for row in batch.rows.tolist()]
    assert len(set(shown)) > len(set(labels))
    keys = set(zip(labels, batch.text_keys.tolist(), strict=True))
    assert len(keys) == len({key for _, key in keys}) == len(set(labels))


def test_half_of_the_images_are_mirrored(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    set_trainable(model, "projections")
    pairs = batches(model, data, tmp_path, flip=True, batch_size=18)
    plain = batches(model, data, tmp_path, batch_size=18)
    flipped = [
        int((a.images != b.images).any(1).sum())
        for a, b in zip(
            (next(iter(pairs.epoch(e))) for e in range(6)),
            (next(iter(plain.epoch(e))) for e in range(6)),
            strict=True,
        )
    ]
    assert 30 < sum(flipped) < 80
    set_trainable(model, "all")
    live = next(iter(batches(model, data, tmp_path, flip=True, batch_size=18).epoch(0)))
    with torch.inference_mode():
        features = model.eval().image_tower(passed(model, live)[0])
    torch.testing.assert_close(features, next(iter(pairs.epoch(0))).images, rtol=1e-3, atol=1e-4)


def test_processes_split_each_batch(model: DualEncoder, photos: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    for what in ("projections", "all"):
        set_trainable(model, what)
        whole = batches(model, data, tmp_path)
        parts = [batches(model, data, tmp_path, process_index=i, process_count=2) for i in range(2)]
        for batch, *shares in zip(whole.epoch(1), *(p.epoch(1) for p in parts), strict=True):
            assert seen([batch]) == seen(list(shares))
    with pytest.raises(ConfigError, match="too small for 4 processes"):
        batches(model, data, tmp_path, process_count=4)


def test_rows_that_cannot_be_used(model: DualEncoder, corrupt: Path, tmp_path: Path) -> None:
    data = load_data(corrupt)
    set_trainable(model, "projections")
    assert len(batches(model, data, tmp_path).rows) == 17
    set_trainable(model, "all")
    live = batches(model, data, tmp_path)
    list(live.epoch(0))
    list(live.epoch(1))
    assert [reject.id for reject in live.skips.rejects()] == ["red1.png"]
    with pytest.raises(DataError, match="needs two rows"):
        batches(model, Dataset("d", [Sample("a", None, ("x",)), data[0]]), tmp_path)


LONG = (
    "a red square. a green cat in the picture! "
    "one good dog in the black and white square of the photo?"
)


@pytest.mark.parametrize("how", ["head", "sentence", "pieces"])
def test_long_captions_are_counted_and_shown_the_same_cached_and_live(
    model: DualEncoder, photos: Path, tmp_path: Path, how: LongCaptions
) -> None:
    for path in photos.glob("red*.txt"):
        path.write_text(LONG)
    data = load_data(photos)
    model.long_texts = "pieces" if how == "pieces" else "head"
    set_trainable(model, "projections")
    cached = batches(model, data, tmp_path, long_captions=how, batch_size=18)
    assert (cached.shorten.seen, cached.shorten.cut) == (18, 3)
    set_trainable(model, "all")
    live = batches(model, data, tmp_path, long_captions=how, batch_size=18)
    model.eval()
    keys = set()
    for epoch in range(4):
        mine, other = next(iter(cached.epoch(epoch))), next(iter(live.epoch(epoch)))
        assert torch.equal(mine.text_keys, other.text_keys)
        keys.update(mine.text_keys.tolist())
        tokens = passed(model, other)[1]
        assert isinstance(tokens, dict)
        assert isinstance(mine.texts, torch.Tensor)
        with torch.inference_mode():
            texts = model.text_tower_features(tokens)
        torch.testing.assert_close(mine.texts, texts, rtol=1e-3, atol=1e-4)
    assert (live.shorten.seen, live.shorten.cut) == (4 * 18, 4 * 3)
    # Five colours have a caption of their own; the red pictures show their one, or its sentences.
    assert len(keys) == (5 + 3 if how == "sentence" else 5 + 1)


@pytest.mark.parametrize("what", ["projections", "all"])
def test_rows_of_one_label_belong_together_where_that_is_asked(
    model: DualEncoder, photos: Path, tmp_path: Path, what: str
) -> None:
    """By their labels, though their captions differ; a row without a label goes by its caption."""
    data = load_data(photos)
    samples = [
        replace(sample, captions=(f"picture {row}",), label="ab"[row % 2] if row else None)
        for row, sample in enumerate(data)
    ]
    set_trainable(model, what)
    made = batches(model, Dataset("labelled", samples), tmp_path, positives="labels", batch_size=18)
    (batch,) = made.epoch(0)
    keys = dict(zip(batch.rows.tolist(), batch.text_keys.tolist(), strict=True))
    assert keys[0] == text_key("picture 0")
    assert len(set(keys.values())) == 3
    assert {keys[row] for row in range(1, 18, 2)} == {label_key("b")}
    assert {keys[row] for row in range(2, 18, 2)} == {label_key("a")}


@pytest.mark.parametrize("what", ["projections", "all"])
def test_rows_are_visited_by_their_weights(
    model: DualEncoder, photos: Path, tmp_path: Path, what: str
) -> None:
    data = load_data(photos)
    set_trainable(model, what)
    once, half = Dataset("once", data.samples[:6]), Dataset("half", data.samples[6:])
    sources = Sources([Source("data", once, weight=2.0), Source("more", half, weight=0.5)])
    made = batches(model, sources, tmp_path)
    assert len(made) == 3  # 12 visits of the first six rows and 6 of the other twelve
    for epoch in range(3):
        rows = Counter(int(row) for batch in made.epoch(epoch) for row in batch.rows)
        assert [rows[row] for row in range(6)] == [2] * 6
        assert sum(rows[row] for row in range(6, 18)) == 6
    again = [batch.rows.tolist() for batch in made.epoch(1, 1)]
    assert again == [batch.rows.tolist() for batch in made.epoch(1)][1:]
