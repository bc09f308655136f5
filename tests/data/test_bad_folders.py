"""Folders with captions that are none, files that cannot be read, and folders that are none."""

from pathlib import Path

import pytest
from PIL import Image

from tests.data.bad_input import GOOD, Build, Case, Write, beside_good, check, saved

PICTURE = Image.new("RGB", (8, 6), "red")


def captioned(name: str, content: str | bytes) -> Build:
    """Put a file of captions beside `x.png`."""

    def write(path: Path) -> None:
        PICTURE.save(path)
        raw = content if isinstance(content, bytes) else content.encode()
        (path.parent / name).write_bytes(raw)

    return beside_good("x.png", write)


def told(*captions: str) -> dict[str, tuple[str, ...]]:
    return {**GOOD, "x.png": captions}


def refused(reason: str, name: str = "x.png") -> list[tuple[str, str]]:
    return [(name, reason)]


def folder_of(*writes: tuple[str, Write]) -> Build:
    def build(folder: Path) -> Path:
        for name, write in writes:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name)
        return folder

    return build


def named_in_metadata(*rows: str) -> Build:
    text = "\n".join(["file_name,text,id", *rows])
    return captioned("metadata.csv", text)


def closed(path: Path) -> None:
    """Write a picture, or a folder with one, and forbid to read it."""
    if path.suffix:
        PICTURE.save(path)
    else:
        path.mkdir()
        PICTURE.save(path / "x.png")
    path.chmod(0)


FOLDERS = {
    "captions that are not UTF-8": Case(
        captioned("x.txt", b"caf\xe9"),
        rows=2,
        usable=GOOD,
        rejects=refused("caption file is not UTF-8 text"),
    ),
    "captions with a byte order mark": Case(
        captioned("x.txt", "\ufeffone\r\n\r\ntwo\r\n"), rows=3, usable=told("one", "two")
    ),
    "captions that are empty": Case(
        captioned("x.txt", " \n\n"), rows=2, usable=GOOD, rejects=refused("empty caption")
    ),
    "a caption of a megabyte": Case(
        captioned("x.txt", "word " * 200_000), rows=2, usable=told(("word " * 200_000).strip())
    ),
    "some captions that are none": Case(
        captioned("x.json", '{"captions": ["one", "", null, {}, "NaN"]}'),
        rows=6,
        usable=told("one"),
        rejects=[("x.png", why) for why in ("empty caption",) * 2]
        + refused("caption is not text")
        + refused("empty caption"),
        partly=frozenset({"x.png"}),
    ),
    "JSON that is cut": Case(
        captioned("x.json", '{"caption": "one'),
        rows=2,
        usable=GOOD,
        rejects=refused("file beside the image is not a JSON object"),
    ),
    "JSON of something else": Case(
        captioned("x.json", '["one"]'),
        rows=2,
        usable=GOOD,
        rejects=refused("file beside the image is not a JSON object"),
    ),
    "half a surrogate pair": Case(
        captioned("x.json", '{"caption": "\\ud83d"}'),
        rows=2,
        usable=GOOD,
        rejects=refused("file beside the image is not a JSON object"),
    ),
    "metadata by a full path": Case(
        lambda folder: named_in_metadata(f"{folder}/x.png,one,1", "y/../good.png,two,2")(folder),
        rows=2,
        usable={"1": ("one",), "2": ("two",)},
    ),
    "metadata that leaves one out and names one that is not there": Case(
        named_in_metadata("x.png,one,1", "gone.png,two,2"),
        rows=3,
        usable={"1": ("one",)},
        rejects=[("2", "file not found"), ("good.png", "not named in metadata.csv")],
    ),
    "folder by the name of a picture": Case(
        folder_of(("x.jpg/good.png", saved(PICTURE))), rows=1, usable={"x.jpg/good.png": ()}
    ),
    "picture that may not be read": Case(
        beside_good("x.png", closed),
        rows=2,
        usable=GOOD,
        rejects=refused("no permission to read the file"),
        as_user=True,
    ),
    "folder that may not be read": Case(
        beside_good("x", closed),
        rows=2,
        usable=GOOD,
        rejects=refused("folder cannot be listed: Permission denied", "x"),
        as_user=True,
    ),
    "empty folder": Case(folder_of(), error=r"no images in .*input \(looked for \.jpg "),
    "folder of other files": Case(
        folder_of(("notes.txt", lambda path: path.write_text("x"))), error="no images in"
    ),
    "no such folder": Case(
        lambda folder: folder / "gone", error="no data .*gone': neither a file or folder nor a man"
    ),
    "name that is too long": Case(lambda _: "x" * 5000, error="xxx cannot be read: File name too "),
    "name that no file can have": Case(lambda _: "a\0b", error="neither a file or folder nor"),
    "a single picture": Case(
        lambda folder: Path(beside_good("x.png", saved(PICTURE))(folder), "x.png"),
        error=r"x\.png is neither a folder nor one of \.yaml, \.csv",
    ),
    "only pictures that are none": Case(
        folder_of(("x.jpg", lambda path: path.symlink_to("gone"))),
        error=r"input has no row that can be used \(1 row rejected: 1 file not found\)",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, tmp_path: Path) -> None:
    check(FOLDERS[kind], tmp_path)
