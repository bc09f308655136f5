import shutil
from pathlib import Path

from clipkit.data import Dataset, load_data
from clipkit.data.dataset import caption_key
from clipkit.types import Sample
from tests.conftest import square


def test_the_fingerprint_is_of_content_alone(photos: Path, tmp_path: Path) -> None:
    first = load_data(photos).fingerprint()
    copy = tmp_path / "elsewhere"
    shutil.copytree(photos, copy)
    (copy / "red0.png").touch()
    assert load_data(copy).fingerprint() == first
    (copy / "red0.txt").write_text("another caption")
    changed = load_data(copy).fingerprint()
    assert changed != first
    square("red", 99).save(copy / "red0.png")
    assert load_data(copy).fingerprint() not in (first, changed)


def test_image_keys_are_equal_for_equal_bytes(photos: Path) -> None:
    shutil.copy(photos / "red0.png", photos / "blue1.png")
    data = load_data(photos)
    keys = dict(zip([sample.id for sample in data], data.image_keys(), strict=True))
    assert keys["red0.png"] == keys["blue1.png"]
    assert len(set(keys.values())) == 17


def test_pil_images_and_bytes_have_content_too() -> None:
    a, b = square("red", 1), square("red", 2)
    data = Dataset("d", [Sample("0", a), Sample("1", b), Sample("2", a.copy()), Sample("3", None)])
    keys = data.image_keys()
    assert keys[0] == keys[2] != keys[1]
    assert keys[3] not in keys[:3]


def test_an_unreadable_image_does_not_stop_the_fingerprint(tmp_path: Path) -> None:
    data = Dataset("d", [Sample("0", tmp_path / "gone.png")])
    assert data.fingerprint().startswith("sha256:")
    assert len(data) == 1
    assert list(data) == [data[0]]


def test_caption_key() -> None:
    assert caption_key("A  red\tFlag ") == caption_key("a red flag") != caption_key("a red flags")


def test_a_share_of_the_rows_is_the_same_each_time(photos: Path) -> None:
    data = load_data(photos)
    half, third = data.share(0.5), data.share(1 / 3)
    assert (len(half), len(third), len(data.share(0.001)), len(data.share(1.0))) == (9, 6, 1, 18)
    ids = [sample.id for sample in half]
    assert ids == [sample.id for sample in data.share(0.5)]
    assert {sample.id for sample in third} < set(ids) < {sample.id for sample in data}
    assert ids == [sample.id for sample in data if sample.id in set(ids)]
