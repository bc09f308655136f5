"""Caption files in the shape that COCO and Flickr give them."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipkit.data import load_data
from clipkit.data.annotations import is_token_file, read_coco, read_token
from clipkit.errors import DataError
from tests.conftest import COLOURS


def coco(photos: Path, **changes: Any) -> dict[str, Any]:
    """Return what `captions_val2017.json` would say of the pictures: five captions each."""
    images = [
        {
            "license": 4,
            "file_name": path.name,
            "coco_url": f"http://images.cocodataset.org/val2017/{path.name}",
            "height": 40,
            "width": 48,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"http://farm7.staticflickr.com/{path.name}",
            "id": 1000 + number,
        }
        for number, path in enumerate(sorted(photos.glob("*.png")))
    ]
    annotations = [
        {"image_id": image["id"], "id": 5 * at + turn, "caption": f"{image['file_name']} {turn}"}
        for turn in range(5)  # those of one image are not next to one another
        for at, image in enumerate(images)
    ]
    return {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/", "id": 4, "name": "Attribution"}],
        "images": images,
        "annotations": annotations,
        **changes,
    }


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def token_lines(photos: Path, count: int = 5) -> list[str]:
    names = sorted(path.name for path in photos.glob("*.png"))
    return [f"{name}#{turn}\tA {name} , number {turn} ." for name in names for turn in range(count)]


def test_coco(photos: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "captions_val2017.json", coco(photos))
    data = load_data(path, root=photos)
    assert (len(data), data.rejects) == (18, ())
    first = data[0]
    assert (first.id, first.image) == ("1000", photos / "black0.png")
    assert first.captions == tuple(f"black0.png {turn}" for turn in range(5))
    assert first.metadata["coco_url"].endswith("val2017/black0.png")
    assert (first.metadata["width"], first.metadata["height"]) == (48, 40)
    assert [s.id for s in load_data(write(photos / "captions.json", coco(photos)))] == [
        str(1000 + number) for number in range(18)
    ]


def test_coco_counts_what_it_cannot_use(photos: Path) -> None:
    content = coco(photos)
    (photos / "red2.png").unlink()
    images, notes = content["images"], content["annotations"]
    images += [
        {"id": 7, "file_name": "extra.png"},  # has no annotation
        {"id": 1000, "file_name": "again.png"},  # its id is taken
        {"file_name": "no_id.png"},
        "no object",
    ]
    notes += [
        {"image_id": 9, "caption": "of an image that is not listed"},
        {"image_id": [1], "caption": "of an image that cannot be"},
        {"image_id": 1000, "bbox": [0, 0, 1, 1]},
        {"image_id": 1001, "caption": {"not": "text"}},
        {"image_id": 1001, "caption": "nan"},
    ]
    samples, rejects = read_coco(write(photos / "c.json", content))
    assert len(samples) == 17
    assert sorted(reject.reason for reject in rejects) == sorted(
        [
            "file not found",
            "image has no annotation",
            "id is that of another image",
            "image has no id or file_name",
            "image has no id or file_name",
            "annotation of an image that is not listed",
            "annotation of an image that is not listed",
            "annotation has no caption",
            "caption is not text",
            "empty caption",
        ]
    )
    assert {sample.id: len(sample.captions) for sample in samples}["1001"] == 5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "but a list"),
        ('{"images": []}', "lists `images` and `annotations`, but images"),
        ("{}", "but nothing"),
    ],
)
def test_files_that_are_not_coco(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=word) as caught:
        load_data(tmp_path / "c.json")
    assert len(str(caught.value)) < 400


def test_coco_without_one_usable_image_says_why(photos: Path) -> None:
    path = write(photos / "c.json", coco(photos, annotations=[]))
    with pytest.raises(DataError, match="18 image has no annotation"):
        load_data(path)


def test_coco_from_a_manifest_with_splits(photos: Path, tmp_path: Path) -> None:
    content = coco(photos)
    for number, image in enumerate(content["images"]):
        image["split"] = "test" if number % 3 == 0 else "train"
    write(tmp_path / "all.json", content)
    write(tmp_path / "few.json", {**content, "images": content["images"][:2]})
    (tmp_path / "list.txt").write_text("red0.png\nblue1.png\ngone.png\n")
    manifest = tmp_path / "mine.yaml"
    manifest.write_text(
        "name: mine\nsource: {kind: coco, root: ., path: all.json, images: photos}\nsplits:\n"
        "  test: {column: split, value: test}\n  listed: {file: list.txt}\n"
        "  few: {path: few.json}\n"
    )
    data = {name: load_data(f"{manifest}{name}") for name in ("", "@test", "@listed", "@few")}
    assert [len(each) for each in data.values()] == [18, 6, 2, 2]
    assert [reject.id for reject in data["@listed"].rejects] == ["gone.png"]
    assert len(data["@few"].rejects) == 16 * 5


def test_token_files(photos: Path, tmp_path: Path) -> None:
    for name in ("Flickr8k.token.txt", "results_20130124.token"):
        path = tmp_path / name
        path.write_text("\n".join(token_lines(photos)) + "\n")
        assert is_token_file(path)
        data = load_data(path, root=photos)
        assert (len(data), data.rejects) == (18, ())
        assert data[0].id == "black0.png"
        assert data[0].captions == tuple(f"A black0.png , number {turn} ." for turn in range(5))
    assert not is_token_file(tmp_path / "token.txt")


def test_token_files_count_what_they_cannot_use(photos: Path) -> None:
    lines = [
        *token_lines(photos, 1),
        "red0.png#1",
        "red0.png\tno number",
        "red0.png#x\tnot a number",
        "gone.png#0\tno such file",
        "red0.png#1\t",
        "red1.png#1\ta caption\u2028of two\x0bparts",
        "",
    ]
    path = photos / "f.token"
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    samples, rejects = read_token(path)
    assert len(samples) == 18
    assert len(rejects) == 5
    assert {sample.id: sample.captions for sample in samples}["red1.png"] == (
        "A red1.png , number 0 .",
        "a caption\u2028of two\x0bparts",
    )
    path.write_text("nothing of the kind\n")
    with pytest.raises(DataError, match="1 not IMAGE#NUMBER"):
        load_data(path)


def test_token_files_from_a_manifest_with_splits(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "all.token").write_text("\n".join(token_lines(photos)))
    names = sorted(path.name for path in photos.glob("*.png"))
    (tmp_path / "test.txt").write_text("\n".join(names[::3]))
    manifest = tmp_path / "mine.yaml"
    manifest.write_text(
        "name: mine\nsource: {kind: token, root: ., path: all.token, images: photos}\n"
        "splits: {test: {file: test.txt}}\n"
    )
    assert len(load_data(manifest)) == len(COLOURS) * 3
    assert [sample.id for sample in load_data(f"{manifest}@test")] == names[::3]
