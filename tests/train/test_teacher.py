from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ConfigError, ModelError, RejectedError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.trainable import set_trainable
from clipkit.sentences import LongCaptions
from clipkit.train.batches import BatchSettings, PairBatch, PairBatches
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.teacher import Teacher, TeacherSettings

Make = Callable[..., DualEncoder]
CPU = torch.device("cpu")


@pytest.fixture
def larger(make_model: Make, tmp_path: Path) -> Path:
    """The teacher, in a folder."""
    model = make_model(seed=9)
    with torch.no_grad():
        model.log_logit_scale.fill_(3.0)
    model.save(str(tmp_path / "larger"))
    return tmp_path / "larger"


def make_teacher(
    data: Dataset, texts: list[str], larger: Path, tmp_path: Path, **settings: float
) -> Teacher:
    return Teacher(
        TeacherSettings(str(larger), **settings),
        data,
        texts,
        FeatureCache(tmp_path / "cache", max_rejected=1.0),
        device=CPU,
        max_rejected=0.2,
    )


@pytest.mark.parametrize("how", ["head", "sentence"])
@pytest.mark.parametrize("what", ["projections", "image_tower", "all"])
def test_each_pair_has_its_own_features(
    make_model: Make, photos: Path, larger: Path, tmp_path: Path, what: str, how: LongCaptions
) -> None:
    """Whatever is cached, shuffled, missing or unreadable, and whichever caption is shown."""
    for path in photos.glob("*.txt"):
        path.write_text(f"a {path.stem[:-1]} square\n{'the good picture. one cat in white. ' * 3}")
    (photos / "red1.png").write_bytes(b"not a picture")
    whole = load_data(photos)
    samples = [replace(some, captions=()) if some.id == "blue0.png" else some for some in whole]
    data = Dataset("data", samples)
    student = make_model()
    set_trainable(student, what)
    settings = BatchSettings(batch_size=6, augment=what == "all", flip=True, long_captions=how)
    cache = FeatureCache(tmp_path / "students")
    fed = PairBatches(student, data, cache, settings, seed=0, number_captions=True)
    assert fed.captions is not None
    teacher = make_teacher(data, fed.captions.texts, larger, tmp_path)
    model = make_model(seed=9)
    rows_seen = set()
    for epoch, done in ((0, 0), (1, 1)):  # from the start, and as a run goes on
        for batch in fed.epoch(epoch, done):
            images, texts = teacher.features(batch)
            rows = batch.rows.tolist()
            rows_seen.update(rows)
            assert batch.image_keys.tolist() == [data.image_keys()[row] for row in rows]
            expected, _, errors = encode_images(model, [data[row].image for row in rows])
            assert not errors
            torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
            assert batch.caption_numbers is not None
            shown = [fed.captions.texts[at] for at in batch.caption_numbers.tolist()]
            for row, text in zip(rows, shown, strict=True):
                assert any(text in caption for caption in data[row].captions)
            if isinstance(batch.texts, list):
                assert batch.texts == shown
            torch.testing.assert_close(texts, encode_texts(model, shown), rtol=1e-4, atol=1e-5)
    assert len(rows_seen) == 16


def test_the_teachers_own_scale_or_another(photos: Path, larger: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    own = make_teacher(data, ["a cat"], larger, tmp_path)
    assert own.logit_scale.item() == pytest.approx(torch.tensor(3.0).exp().item())
    assert own.weight == 1.0
    other = make_teacher(data, ["a cat"], larger, tmp_path, logit_scale=7.5, weight=0.2)
    assert other.logit_scale.item() == 7.5
    assert other.weight == 0.2


def test_it_needs_captions_that_have_numbers(photos: Path, larger: Path, tmp_path: Path) -> None:
    teacher = make_teacher(load_data(photos), ["a cat"], larger, tmp_path)
    one = torch.zeros(2, dtype=torch.long)
    batch = PairBatch(torch.zeros(2, 3), ["a cat", "a dog"], one, None, one, one)
    with pytest.raises(ConfigError, match="numbered captions"):
        teacher.features(batch)


def test_who_cannot_teach(photos: Path, larger: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    with pytest.raises(ModelError):
        make_teacher(data, ["a cat"], tmp_path / "gone", tmp_path)
    for name in ("red0", "red1", "blue0", "blue1"):
        (photos / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(RejectedError, match="4 rows rejected"):
        make_teacher(load_data(photos), ["a cat"], larger, tmp_path)


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherSettings("starter", weight=0.0, logit_scale=float("nan"))
    assert caught.value.problems == (
        "distill.weight: 0.0 is no number above 0",
        "distill.logit_scale: nan is no number above 0",
    )
