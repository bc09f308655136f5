"""One pass over all rows: digests, facts, labels, captions and rejects."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.survey import take_survey
from clipkit.types import Sample
from tests.conftest import square


def test_each_row_is_seen_once_and_in_order(corrupt: Path) -> None:
    data = load_data(corrupt)
    told: list[int] = []
    found = take_survey(data, progress=lambda done, total: told.append(done))
    assert told == [16, 18]
    bad = next(row for row, sample in enumerate(data) if sample.id == "red1.png")
    assert found.images["row"].tolist() == [row for row in range(18) if row != bad]
    assert [(r.id, r.reason) for r in found.rejects] == [("red1.png", "cannot identify image file")]
    assert set(found.images["width"]) == {48}
    assert set(found.images["height"]) == {40}
    assert found.kinds == {"PNG RGB": 17}
    assert found.fingerprint() == data.fingerprint()


def test_captions_and_their_tokens(photos: Path) -> None:
    (photos / "red0.txt").write_text("A  Red thing\na red thing\nfour words are here\n")
    data = load_data(photos)
    found = take_survey(data, count_tokens=lambda texts: [len(text) for text in texts])
    row = next(row for row, sample in enumerate(data) if sample.id == "red0.png")
    captions = found.captions[found.captions["row"] == row]
    assert captions["words"].tolist() == [3, 3, 4]
    assert captions["key"][0] == captions["key"][1] != captions["key"][2]
    assert found.tokens.tolist() == [len(text) for sample in data for text in sample.captions]


def test_facts_of_odd_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    square("red").save(tmp_path / "a.jpg", exif=exif)
    square("red").convert("RGBA").save(tmp_path / "b.png")
    square("red").save(tmp_path / "c.gif", save_all=True, append_images=[square("blue")])
    found = take_survey(load_data(tmp_path))
    assert found.kinds == {"JPEG RGB": 1, "PNG RGBA": 1, "GIF P": 1}
    assert found.traits == {"rotated": 1, "transparent": 1, "frames": 1}
    assert found.images["width"].tolist() == [40, 48, 48]  # the first lies on its side


def test_equal_bytes_have_equal_keys(photos: Path) -> None:
    (photos / "zz.png").write_bytes((photos / "blue0.png").read_bytes())
    data = load_data(photos)
    found = take_survey(data)
    keys = dict(zip([sample.id for sample in data], found.image_keys().tolist(), strict=True))
    assert keys["zz.png"] == keys["blue0.png"]
    assert len(set(keys.values())) == 18
    digest = hashlib.sha256((photos / "zz.png").read_bytes()).digest()
    assert keys["zz.png"] == int.from_bytes(digest[:8], "big") >> 1


def test_rows_without_an_image_or_a_label() -> None:
    samples = [Sample("a", None, ("text",)), Sample("b", square("red"), (), "cat")]
    found = take_survey(Dataset("two", samples))
    assert [(r.id, r.reason) for r in found.rejects] == [("a", "row has no image")]
    assert found.labels == {"cat": 0}
    assert found.images["label"].tolist() == [0]
    assert found.captions.size == 0
    np.testing.assert_array_equal(found.tokens, [])


def test_a_file_that_goes_away_is_a_reject(photos: Path) -> None:
    data = load_data(photos)
    (photos / "red2.png").unlink()
    found = take_survey(data)
    assert [(r.id, r.reason) for r in found.rejects] == [("red2.png", "file not found")]
    assert found.rejects[0].where == str(photos / "red2.png")
