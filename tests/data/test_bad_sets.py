"""Shards of tar, manifests and sets of `datasets` that are broken: each row is used or listed."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.bad_input import Build, Case, check, with_pictures
from tests.data.test_bad_parquet import latin

Change = Callable[[tarfile.TarInfo], None]
Member = tuple[str, "bytes | str | Change"]


PICTURE = Image.new("RGB", (8, 6), "red")


def png() -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, *members: Member, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if callable(content):
                content(info)
                tar.addfile(info)
                continue
            raw = content.encode() if isinstance(content, str) else content
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def tar(*members: Member, mode: str = "w", name: str = "t.tar") -> Build:
    return lambda folder: write_tar(folder / name, *members, mode=mode)


def row(key: str, caption: str | bytes = "c", fields: str = "") -> list[Member]:
    """Return an image and its caption, or a JSON object in place of that."""
    return [(f"{key}.png", png()), (f"{key}.json", fields) if fields else (f"{key}.txt", caption)]


def link(kind: bytes, to: str) -> Change:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, to

    return change


def cut_tar(folder: Path) -> Path:
    """Cut a shard in the image of its third row."""
    path = write_tar(folder / "t.tar", *row("a"), *row("b"), *row("c"))
    with tarfile.open(path) as whole:
        member = whole.getmember("c.png")
    path.write_bytes(path.read_bytes()[: member.offset_data + 10])
    return path


def spoilt_tar(folder: Path) -> Path:
    """Change a byte of the head of the third row's image."""
    path = write_tar(folder / "t.tar", *row("a"), *row("b"), *row("c"))
    with tarfile.open(path) as whole:
        at = whole.getmember("c.png").offset
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    return path


def many_shards(folder: Path) -> str:
    """Return braces that are longer than a file's name can be."""
    names = [f"shard-number-{number:04d}" for number in range(40)]
    for name in names:
        write_tar(folder / f"{name}.tar", *row(name))
    return f"{folder}/{{{','.join(names)}}}.tar"


def shards_that_share(folder: Path) -> str:
    """Write two shards of the same keys, with names that are not UTF-8."""
    for name in (b"\xe8.tar", b"\xe9.tar"):
        write_tar(folder / os.fsdecode(name), *row("a"))
    return f"{folder}/*.tar"


def shards(pattern: str) -> Build:
    return lambda folder: f"{write_tar(folder / 's-0.tar', *row('a')).parent}/{pattern}"


def used(*keys: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(keys, ("c",))


BAD_NAME = "member's name cannot be used"

TARS = {
    "cut in a row": Case(
        cut_tar, rows=3, usable=used("a", "b"), rejects=[("c", "shard ends within it")]
    ),
    "damaged between rows": Case(
        spoilt_tar,
        rows=3,
        usable=used("a", "b"),
        rejects=[("t.tar byte 4096", "shard is damaged")],
    ),
    "members that lead out": Case(
        tar(*row("../a"), *row("/b"), *row("c/../../d"), *row("e")),
        rows=4,
        usable=used("e"),
        rejects=[(key, BAD_NAME) for key in ("../a", "/b", "c/../../d")],
    ),
    "links": Case(
        tar(
            ("a.png", link(tarfile.SYMTYPE, "/etc/passwd")),
            ("a.txt", "x"),
            *row("b"),
            ("c.png", link(tarfile.LNKTYPE, "b.png")),
            ("c.txt", "c"),
            ("d.png", link(tarfile.FIFOTYPE, "")),
        ),
        rows=4,
        usable=used("b"),
        rejects=[(key, "not a regular file") for key in "acd"],
    ),
    "no image, and two": Case(
        tar(("a.txt", "x"), *row("b"), ("b.jpg", png()), *row("c")),
        rows=3,
        usable=used("c"),
        rejects=[("a", "no image"), ("b", "two images")],
    ),
    "names that occur twice": Case(
        tar(*row("a"), *row("b"), *row("a", "d")),
        rows=3,
        usable=used("a", "b"),
        rejects=[("a", "name occurs twice in its shard")],
        partly=frozenset("a"),
    ),
    "names that begin with a dot, or have none": Case(
        tar((".a.png", png()), ("README", "x"), *row("b")),
        rows=3,
        usable=used("b"),
        rejects=[(".a.png", BAD_NAME), ("README", BAD_NAME)],
    ),
    "names that are not UTF-8": Case(
        tar(*row(os.fsdecode(b"caf\xe9")), *row("b")), rows=2, usable=used(r"caf\udce9", "b")
    ),
    "images that are none": Case(
        tar(("a.png", b""), ("a.txt", "x"), ("b.jpg", "text"), *row("c")),
        rows=3,
        usable=used("c"),
        rejects=[("a", "file is empty"), ("b", "cannot identify image file")],
    ),
    "captions that are none": Case(
        tar(*row("a", caption=""), *row("b", caption=b"\xff"), *row("c"), *row("d", caption="NaN")),
        rows=4,
        usable=used("c"),
        rejects=[
            ("a", "empty caption"),
            ("b", "caption is not UTF-8 text"),
            ("d", "empty caption"),
        ],
    ),
    "JSON that is none": Case(
        tar(
            *row("a", fields="{"),
            *row("b", fields="[1]"),
            *row("c", fields='{"captions": ["c", ""]}'),
            *row("d", fields=r'{"caption": "\ud83d"}'),
        ),
        rows=5,
        usable=used("c"),
        rejects=[
            ("a", "json member is not an object"),
            ("b", "json member is not an object"),
            ("c", "empty caption"),
            ("d", "json member is not an object"),
        ],
        partly=frozenset("c"),
    ),
    "compressed": Case(
        tar(*row("a"), mode="w:gz"), error=r"t\.tar is compressed by gzip: .*; decompress the shard"
    ),
    "compressed and called so": Case(
        tar(*row("a"), mode="w:xz", name="t.tar.xz"),
        error=r"t\.tar\.xz is neither a folder nor one of",
    ),
    "no bytes": Case(with_pictures("t.tar", lambda path: path.touch()), error=r"t\.tar is empty"),
    "no members": Case(tar(), error=r"no row that can be used \(no rows rejected\)"),
    "no tar": Case(with_pictures("t.tar", lambda p: p.write_bytes(png() * 99)), error="is not a t"),
    "pipe": Case(with_pictures("t.tar", os.mkfifo), error="is neither a file nor a folder"),
    "shards that are not there": Case(
        shards("s-{0..5}.tar"), error=r"no shard \S+s-1\.tar, \S+s-2\.tar, \S+s-3\.tar and 2 more$"
    ),
    "a glob of nothing": Case(shards("x-*.tar"), error=r"no shard \S+x-\*\.tar$"),
    "a glob that is none": Case(shards("x**.tar"), error="is no pattern of file names|no shard"),
    "shards beyond counting": Case(
        shards("s-{0..99999999}.tar"), error="stands for more than 1,000,000 shards"
    ),
    "keys of two shards, whose names are not UTF-8": Case(
        shards_that_share, rows=2, usable=used(r"\udce8.tar/a", r"\udce9.tar/a")
    ),
    "names of shards without end": Case(
        many_shards, rows=40, usable=used(*(f"shard-number-{number:04d}" for number in range(40)))
    ),
}


def manifest(*lines: str) -> Build:
    text = "\n".join(["name: mine", *lines])
    return with_pictures("m.yaml", lambda path: path.write_text(text))


TABLE = "source: {kind: table, root: ., path: t.csv}"
WORDS = ["{image: red.png, label: red}", "{image: blue.png, label: sky}", "{image: gone.png}"]
ROWS = f"source: {{kind: table, root: ., rows: [{', '.join(WORDS)}]}}"


def pipe_of_a_manifest(path: Path) -> None:
    os.mkfifo(path.parent / "t.csv")
    path.write_text(f"name: mine\n{TABLE}\n")


MANIFESTS = {
    "labels that are not among its classes": Case(
        manifest(ROWS, "class_names: [red, blue]"),
        rows=3,
        usable={"red.png": ()},
        rejects=[
            ("gone.png", "file not found"),
            ("blue.png", "label is not among class_names"),
        ],
    ),
    "fields that there are not": Case(
        manifest(TABLE.replace("path", "pth"), "licens: x", "columns: {img: a}"),
        error="unknown field 'licens'; did you mean 'licence'",
        lines=5,
    ),
    "no YAML": Case(manifest("source: {"), error=r"m\.yaml is not YAML"),
    "no mapping": Case(
        with_pictures("m.yaml", lambda path: path.write_text("- x")), error="not a map", lines=2
    ),
    "not UTF-8": Case(
        with_pictures("m.yaml", lambda path: path.write_bytes(b"name: caf\xe9")), error="not YAML"
    ),
    "path that leads out": Case(
        manifest(TABLE.replace("t.csv", "../t.csv")), error=r"'\.\./t\.csv' leads out of its root"
    ),
    "full path": Case(
        manifest(TABLE.replace("t.csv", "/etc/passwd")), error="'/etc/passwd' leads out of its root"
    ),
    "folder that is not there": Case(
        manifest("source: {kind: folder, root: nowhere}"), error="its root .*nowhere is not a fold"
    ),
    "table that is not there": Case(manifest(TABLE), error=r"t\.csv cannot be read: No such file"),
    "table that is a pipe": Case(
        with_pictures("m.yaml", pipe_of_a_manifest), error=r"t\.csv is neither a file nor a folder"
    ),
    "split that is not there": Case(
        lambda folder: f"{manifest(ROWS, 'splits: {train: {file: x}}')(folder)}@tain",
        error="data set mine has no split 'tain'; did you mean 'train'",
    ),
    "pipe": Case(with_pictures("m.yaml", os.mkfifo), error="is neither a file nor a folder"),
}


ROWS_OF_FOUR = datasets.Dataset.from_dict(
    {
        "image": [PICTURE, None, {"bytes": b"x", "path": None}, PICTURE],
        "caption": ["c", "x", "y", ""],
    },
    features=datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")}),
)


def saved_set(change: Callable[[Path], object] = lambda path: None, **splits: Any) -> Build:
    """Have `datasets` write a set, or several splits of one, and change what it wrote."""

    def write(path: Path) -> None:
        table = datasets.DatasetDict(splits) if splits else ROWS_OF_FOUR
        table.save_to_disk(path)
        change(path)

    return with_pictures("set", write)


def halve(path: Path) -> None:
    (arrow,) = path.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])


def parquet_folder(change: Callable[[Path], object] = lambda path: None, **columns: Any) -> Build:
    def write(path: Path) -> None:
        path.mkdir()
        pq.write_table(pa.table(columns), path / "t.parquet")
        change(path / "t.parquet")

    return with_pictures("set", write)


def not_utf8(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "caption", latin("grün")), path)


HUB = {
    "rows that cannot be used": Case(
        saved_set(),
        rows=4,
        usable={"0": ("c",)},
        rejects=[
            ("1", "no image named"),
            ("3", "empty caption"),
            ("2", "cannot identify image file"),
        ],
    ),
    "several splits": Case(
        saved_set(train=ROWS_OF_FOUR, dev=ROWS_OF_FOUR),
        error="set has several splits: name one of train, dev",
    ),
    "split that is not there": Case(
        lambda folder: f"{saved_set(train=ROWS_OF_FOUR, dev=ROWS_OF_FOUR)(folder)}@tran",
        error="has no split 'tran'; did you mean 'train'",
    ),
    "rows that are cut": Case(saved_set(halve), error="cannot be loaded by datasets: "),
    "rows that are gone": Case(
        saved_set(lambda path: next(path.glob("*.arrow")).unlink()), error="No such file or direct"
    ),
    "description that is cut": Case(
        saved_set(lambda path: (path / "dataset_info.json").write_text("{")),
        error="cannot be loaded by datasets: Expecting property name",
    ),
    "parquet that is cut": Case(
        parquet_folder(lambda path: os.truncate(path, 99), image=["red.png"]),
        error="cannot be loaded by datasets: Parquet magic bytes not found",
    ),
    "captions that are not UTF-8": Case(
        parquet_folder(not_utf8, image=["red.png"], caption=["x"]),
        error="set: column 'caption' cannot be read: Invalid UTF8 sequence",
    ),
    "no such set": Case(lambda folder: "hub:nobody/nothing", error="cannot be loaded by datasets"),
}


@pytest.mark.parametrize("kind", TARS)
def test_tars(kind: str, tmp_path: Path) -> None:
    check(TARS[kind], tmp_path)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests(kind: str, tmp_path: Path) -> None:
    check(MANIFESTS[kind], tmp_path)


@pytest.mark.parametrize("kind", HUB)
def test_what_datasets_wrote(kind: str, tmp_path: Path) -> None:
    check(HUB[kind], tmp_path)
