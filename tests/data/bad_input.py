"""What the tests of bad input share: a case, and the check that none of its rows is lost."""

import ctypes
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from PIL.Image import Image

from clipkit import load_data
from clipkit.data import Dataset, Rejects
from clipkit.data.decode import decode_image, inspect_image
from clipkit.data.loader import Loader
from clipkit.errors import DataError, ImageError
from clipkit.types import Preprocessing, Reject
from tests.conftest import square

HANG_SECONDS = 120.0
SMALL = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

Build = Callable[[Path], "Path | str"]
Write = Callable[[Path], object]

GOOD: dict[str, tuple[str, ...]] = {"good.png": ()}
"""What `beside_good` can always use."""
NOT_TEXT = "caption has characters that are no text"


@dataclass(frozen=True)
class Case:
    """A kind of bad or odd input, and what must become of it.

    Attributes:
        build: writes it into a folder and returns what `load_data` is told.
        rows: how many captions it holds, a picture without any counted as one.
        usable: the captions of each row that can be used, once the images are decoded.
        rejects: the id and the reason of each that cannot: those of reading, then of decoding.
        partly: ids that are usable and among the rejects, as only some of their captions are bad.
        options: what else `load_data` is told.
        error: what the one sentence says that refuses it all; a regular expression.
        lines: of that sentence, where it lists several problems.
        as_user: not even a superuser may read what permissions forbid.
    """

    build: Build
    rows: int = 0
    usable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejects: Sequence[tuple[str, str]] = ()
    partly: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    lines: int = 1
    as_user: bool = False


def check(case: Case, folder: Path) -> dict[str, Image]:
    """Load and decode a case, compare what becomes of it, and return the pictures by their ids."""
    if case.as_user and may_read_all(folder):
        pytest.skip("this system lets a superuser read whatever there is")
    (folder / "input").mkdir()
    told = case.build(folder / "input")
    if case.error:
        with pytest.raises(DataError, match=case.error) as caught:
            in_time(lambda: load_data(told, **case.options), case.as_user)
        assert len(str(caught.value).splitlines()) == case.lines
        return {}
    data, pictures, broken = in_time(lambda: decoded(told, case.options), case.as_user)
    usable = {sample.id: sample.captions for sample in data if sample.id in pictures}
    assert usable == case.usable
    rejects = [*data.rejects, *broken]
    assert [(reject.id, reject.reason) for reject in rejects] == list(case.rejects)
    assert sum(max(1, len(captions)) for captions in usable.values()) + len(rejects) == case.rows
    assert usable.keys() & {reject.id for reject in rejects} == case.partly
    assert all(reject.where for reject in data.rejects)
    Rejects(rows=rejects).write(folder / "rejects.jsonl")
    lines = (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [reject.reason for reject in rejects]
    return dict(pictures)


def decoded(
    told: Path | str, options: Mapping[str, Any]
) -> tuple[Dataset, dict[str, Image], list[Reject]]:
    """Return a data set, its pictures by their ids, and the rows whose image cannot be used."""
    data = load_data(told, **options)
    assert len({sample.id for sample in data}) == len(data)
    pictures, broken = {}, []
    for sample in data:
        assert sample.image is not None
        try:
            pictures[sample.id] = decode_image(sample.image)
            facts = inspect_image(sample.image)
            assert (facts.width, facts.height) == pictures[sample.id].size
        except ImageError as error:
            broken.append(Reject(sample.id, str(error)))
            with pytest.raises(ImageError) as caught:
                inspect_image(sample.image)
            assert str(caught.value) == str(error)
    loader = Loader(data.samples, SMALL, batch_size=len(data), seed=0, workers=0)
    batches = list(loader.epoch())
    assert sum(len(batch.indices) for batch in batches) == len(pictures)
    listed = [(reject.id, reject.reason) for reject in loader.rejects]
    assert listed == [(reject.id, reject.reason) for reject in broken]
    return data, pictures, broken


def saved(image: Image, **options: Any) -> Write:
    """Have PIL write a picture."""
    return lambda path: image.save(path, **options)


def beside_good(name: str, write: Write) -> Build:
    """Write a file of a name beside `good.png`, a picture that is as it should be."""

    def build(folder: Path) -> Path:
        square("green").save(folder / "good.png")
        write(folder / name)
        return folder

    return build


def with_pictures(name: str, write: Write) -> Build:
    """Write a file that names pictures, beside `red.png`, `green.png` and `blue.png`."""

    def build(folder: Path) -> Path:
        for colour in ("red", "green", "blue"):
            square(colour).save(folder / f"{colour}.png")
        write(folder / name)
        return folder / name

    return build


def odd_files(path: Path) -> None:
    """Have pandas write a table of what no picture can be, and of one picture."""
    os.mkfifo(path.parent / "pipe.jpg")
    (path.parent / "folder.jpg").mkdir()
    (path.parent / "loop.jpg").symlink_to("loop.jpg")
    names = ["pipe.jpg", "folder.jpg", "loop.jpg", "red.png"]
    frame = pd.DataFrame({"image": names, "caption": "r"})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)


ODD_FILES = Case(
    with_pictures("t.csv", odd_files),
    rows=4,
    usable={"red.png": ("r",)},
    rejects=[
        ("pipe.jpg", "not a regular file"),
        ("folder.jpg", "a folder, not a file"),
        ("loop.jpg", "file cannot be read: Too many levels of symbolic links"),
    ],
)


def in_time(work: Callable[[], Any], as_user: bool = False) -> Any:
    """Return what `work` returns or raise what it raises; fail where it would wait for ever."""
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            if as_user:
                obey_permissions()
            ended.append((work(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    if not ended:
        pytest.fail(f"no end after {HANG_SECONDS:g} seconds")
    result, error = ended[0]
    if error is not None:
        raise error
    return result


def obey_permissions() -> None:
    """Give up, for this thread alone, a superuser's right to read whatever there is."""
    override, read_search = 1, 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7)
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3; the calling thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and their upper halves
    if not hasattr(libc, "capget") or libc.capget(header, sets):
        return
    sets[0] &= ~(1 << override | 1 << read_search)
    libc.capset(header, sets)


def may_read_all(folder: Path) -> bool:
    """Say whether a file can be read whose permissions forbid it."""
    closed = folder / "closed"
    closed.touch(0)
    try:
        in_time(closed.read_bytes, as_user=True)
    except PermissionError:
        return False
    return True
