"""Shards written by webdataset itself, or by hand in the layout that img2dataset writes."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import webdataset
from PIL import Image

from clipkit.data import load_data
from clipkit.data.decode import decode_image
from clipkit.data.shards import expand_shards
from clipkit.data.webdataset import read_webdataset
from clipkit.errors import DataError
from clipkit.types import FileSlice
from tests.conftest import COLOURS, square


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue()


def rows(count: int, ending: str = "png") -> list[dict[str, Any]]:
    colours = list(COLOURS)
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    return [
        {
            "__key__": f"{number:06d}",
            ending: encoded(square(colours[number % 6], number), formats[ending]),
            "txt": f"a {colours[number % 6]} square",
        }
        for number in range(count)
    ]


def write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def write_img2dataset(folder: Path, shard: int, count: int) -> None:
    """Write one shard and what lies beside it; its last row failed to download."""
    metadata, samples = [], []
    for number in range(count):
        content = encoded(square("green", shard * 100 + number), "JPEG")
        fields = {
            "caption": f"picture {number} of {shard}",
            "url": f"https://example.org/{shard}/{number}.jpg",
            "key": f"{shard:05d}{number:04d}",
            "status": "success",
            "error_message": None,
            "width": 48,
            "height": 40,
            "original_width": 480,
            "original_height": 400,
            "exif": "{}",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        if number == count - 1:
            metadata.append({**fields, "status": "failed_to_download", "error_message": "404"})
            continue
        metadata.append(fields)
        key = fields["key"]
        samples.append(
            {"__key__": key, "jpg": content, "txt": fields["caption"], "json": dict(fields)}
        )
    write_tar(folder / f"{shard:05d}.tar", samples)
    pd.DataFrame(metadata).to_parquet(folder / f"{shard:05d}.parquet")
    stats = {"count": count, "successes": count - 1, "failed_to_download": 1}
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))


def test_shards_of_the_shard_writer(tmp_path: Path) -> None:
    pattern = str(tmp_path / "out-%04d.tar")
    written = rows(10)
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for row in written:
            writer.write(row)
    for name in ("out-{0000..0002}.tar", "out-*.tar", "{out-0000,out-0001,out-0002}.tar"):
        data = load_data(str(tmp_path / name))
        assert not data.rejects
        assert [sample.id for sample in data] == [row["__key__"] for row in written]
        assert [sample.captions for sample in data] == [(row["txt"],) for row in written]
    for number, sample in enumerate(data):
        expected = np.asarray(square(list(COLOURS)[number % 6], number))
        assert sample.image is not None
        np.testing.assert_array_equal(np.asarray(decode_image(sample.image)), expected)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_images_are_read_where_they_lie(tmp_path: Path, ending: str) -> None:
    written = rows(3, ending)
    data = load_data(write_tar(tmp_path / "a.tar", written))
    assert [s.image.read() for s in data if isinstance(s.image, FileSlice)] == [
        row[ending] for row in written
    ]


def test_classes_and_metadata(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {"__key__": "a/1", "png": encoded(square("red")), "cls": 7, "json": {"label": "x", "n": 1}},
        {"__key__": "a/2", "png": encoded(square("blue")), "json": {"label": "y", "caption": "z"}},
        {"__key__": "a/3", "png": encoded(square("blue")), "json": {"captions": ["p", "q"]}},
    ]
    data = load_data(write_tar(tmp_path / "a.tar", samples))
    assert [(s.id, s.label) for s in data] == [("a/1", "7"), ("a/2", "y"), ("a/3", None)]
    assert [s.captions for s in data] == [(), ("z",), ("p", "q")]
    assert [dict(s.metadata) for s in data] == [{"n": 1}, {}, {}]
    assert data.class_names == ("7", "y")


@pytest.mark.parametrize("how", ["folder", "glob", "braces"])
def test_what_img2dataset_writes(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "laion"
    folder.mkdir()
    for shard in range(3):
        write_img2dataset(folder, shard, 4)
    names = {"folder": "", "glob": "*.tar", "braces": "{00000..00002}.tar"}
    data = load_data(folder / names[how])
    assert len(data) == 9
    assert not data.rejects
    first = data[0]
    assert first.id == "000000000"
    assert first.captions == ("picture 0 of 0",)
    assert isinstance(first.image, FileSlice)
    assert hashlib.sha256(first.image.read()).hexdigest() == first.metadata["sha256"]
    assert set(first.metadata) == {
        *("url", "key", "status", "error_message", "width", "height"),
        *("original_width", "original_height", "exif", "sha256"),
    }
    assert first.metadata["original_width"] == 480


def test_folders_of_shards_have_splits_and_ids_stay_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tar(tmp_path / "set" / split / "00000.tar", rows(3))
    assert [s.id for s in load_data(f"{tmp_path}/set@val")] == ["000000", "000001", "000002"]
    ids = [sample.id for sample in load_data(tmp_path / "set")]
    assert ids[:2] == ["train/00000.tar/000000", "train/00000.tar/000001"]
    assert len(set(ids)) == 6


def test_a_folder_of_images_with_a_tar_in_it_is_a_folder_of_images(photos: Path) -> None:
    write_tar(photos / "backup.tar", rows(2))
    assert len(load_data(photos)) == 18


def test_a_manifest_of_shards_with_splits(tmp_path: Path) -> None:
    for number in range(4):
        row = [
            {**row, "json": {"fold": "odd" if at % 2 else "even"}} for at, row in enumerate(rows(4))
        ]
        write_tar(tmp_path / "shards" / f"{number}.tar", row)
    manifest = tmp_path / "mine.yaml"
    manifest.write_text(
        "name: mine\nsource: {kind: webdataset, root: ., path: 'shards/{0..3}.tar'}\n"
        "splits: {train: {path: 'shards/{0..2}.tar'}, val: {path: shards/3.tar},"
        " odd: {column: fold, value: odd}}\n"
    )
    lengths = [len(load_data(f"{manifest}{split}")) for split in ("", "@train", "@val", "@odd")]
    assert lengths == [16, 12, 4, 8]
    manifest.write_text(
        "name: mine\nsource: {kind: webdataset, root: ., path: [shards/0.tar, 'shards/[23].tar']}\n"
    )
    assert len(load_data(manifest)) == 12


def test_a_manifest_of_shards_cannot_lead_out_of_its_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "{a,..").mkdir(parents=True)
    write_tar(tmp_path / "outside.tar", rows(1))
    manifest = tmp_path / "mine.yaml"
    for path in ("../outside.tar", "{a,..}/outside.tar", "../*.tar"):
        manifest.write_text(
            f"name: mine\nsource: {{kind: webdataset, root: root, path: '{path}'}}\n"
        )
        with pytest.raises(DataError, match=r"leads out of its root|no shard"):
            load_data(manifest)


def test_rows_that_are_out_of_order_or_named_from_here(tmp_path: Path) -> None:
    """As `tar cf shard.tar .` packs them."""
    content = encoded(square("red"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("./2.txt", b"two"), ("./1.png", content), ("./2.PNG", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples, rejects = read_webdataset([tmp_path / "a.tar"])
    assert not rejects
    assert [(s.id, s.captions) for s in samples] == [("./2", ("two",)), ("./1", ())]


def test_large_members_that_are_not_asked_for_are_left_alone(tmp_path: Path) -> None:
    samples = [{**row, "npy": np.zeros(1000)} for row in rows(2)]
    data = load_data(write_tar(tmp_path / "a.tar", samples))
    assert [len(sample.metadata) for sample in data] == [0, 0]
    assert len(data) == 2


def test_progress_counts_shards(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / f"{number}.tar", rows(1)) for number in range(3)]
    told: list[tuple[int, int | None]] = []
    read_webdataset(shards, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_shard_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    """Whatever is left of 5 rows, the rows before the cut are there and the cut is listed."""
    whole = write_tar(tmp_path / "whole.tar", rows(5)).read_bytes()
    ends = [
        s.image.offset for s in load_data(tmp_path / "whole.tar") if isinstance(s.image, FileSlice)
    ]
    cut = tmp_path / "cut.tar"
    for length in range(ends[1], len(whole) - 10_240, 512 * 3 + 100):
        cut.write_bytes(whole[:length])
        samples, rejects = read_webdataset([cut])
        surely = sum(offset < length for offset in ends) - 1
        assert surely <= len(samples) <= surely + 1
        assert len(rejects) == 1
        assert "shard" in rejects[0].reason
        for sample in samples:
            assert sample.captions
            assert isinstance(sample.image, FileSlice)
            decode_image(sample.image)


def test_bytes_that_are_wrong_never_crash(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [{**r, "json": {"a": 1}} for r in rows(4)])
    content = np.frombuffer(whole.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken.tar"
    outcomes = set()
    for _ in range(150):
        damaged = content.copy()
        block = 512 * int(rng.integers(0, len(content) // 512))
        where = block + rng.integers(0, 512, 4)
        damaged[where] = rng.integers(0, 256, 4)
        broken.write_bytes(damaged.tobytes())
        try:
            samples, rejects = read_webdataset([broken])
        except DataError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
            continue
        assert len(samples) + len(rejects) >= 4 or any("shard" in r.reason for r in rejects)
        outcomes.add("rejects" if rejects else "fine")
    assert outcomes == {"refused", "rejects", "fine"}


def test_two_tars_in_one_file_are_noticed(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", rows(2)).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole + whole)
    samples, rejects = read_webdataset([tmp_path / "a.tar"])
    assert len(samples) == 2
    assert [reject.reason for reject in rejects] == ["shard is damaged"]


def test_a_file_with_marks_in_its_name_is_that_file(tmp_path: Path) -> None:
    for name in ("a[1].tar", "b{1,2}.tar"):
        write_tar(tmp_path / name, rows(2))
        assert len(load_data(tmp_path / name)) == 2
        assert expand_shards(name, tmp_path) == [tmp_path / name]
