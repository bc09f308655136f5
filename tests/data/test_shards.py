"""Names of shards, compared with those that a shell makes of the same braces."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clipkit.data.shards import MOST_SHARDS, expand_shards, shard_names
from clipkit.errors import DataError

PATTERNS = [
    "{00..11}.tar",
    "{9..11}.tar",
    "{3..0}.tar",
    "a-{000..002}-{x,y}.tar",
    "{train,val}/{0..1}.tar",
    "{a,b}.tar",
    "x{,-extra}.tar",
    "{008..010}.tar",
    "{0..0}.tar",
    "{a}-{0..1}.tar",
    "plain.tar",
]


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_braces_are_those_of_a_shell(pattern: str, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash to compare with")
    said = subprocess.run([bash, "-c", f"echo {pattern}"], capture_output=True, text=True)
    paths = touch(tmp_path, *said.stdout.split())
    assert paths
    assert expand_shards(pattern, tmp_path) == paths
    assert expand_shards(str(tmp_path / pattern)) == paths


def test_several_patterns_keep_their_order_and_name_a_shard_once(tmp_path: Path) -> None:
    b0, b1, a0, _ = touch(tmp_path, "b-0.tar", "b-1.tar", "a-0.tar", "a-0.txt")
    assert expand_shards(["b-1.tar", "*.tar", "b-{0..1}.tar"], tmp_path) == [b1, a0, b0]
    assert expand_shards("{b,a}-*.tar", tmp_path) == [b0, b1, a0]
    assert expand_shards("?-[1-9].tar", tmp_path) == [b1]
    assert expand_shards("**/a-*.tar", tmp_path) == [a0]
    assert expand_shards(f"{tmp_path}/*-0.tar", Path("/elsewhere")) == [a0, b0]
    with pytest.raises(DataError, match=r"is no pattern of file names|no shard"):
        expand_shards("a**.tar", tmp_path)  # refused by Python up to 3.12


def test_a_file_of_that_name_comes_before_what_it_stands_for(tmp_path: Path) -> None:
    touch(tmp_path, "0.tar", "1.tar")
    for name in ("{0..1}.tar", "[01].tar", "{0,1}.tar"):
        assert len(expand_shards(name, tmp_path)) == 2
        assert expand_shards(name, tmp_path) != touch(tmp_path, name)
        assert expand_shards(name, tmp_path) == [tmp_path / name]


def test_folders_and_pipes_are_no_shards(tmp_path: Path) -> None:
    (shard,) = touch(tmp_path, "0.tar")
    (tmp_path / "1.tar").mkdir()
    os.mkfifo(tmp_path / "2.tar")
    (tmp_path / "3.tar").symlink_to("3.tar")
    assert expand_shards("*.tar", tmp_path) == [shard]
    with pytest.raises(DataError, match=r"^no shard \S+/1\.tar, \S+/2\.tar, \S+/3\.tar$"):
        expand_shards("{0..3}.tar", tmp_path)


def test_each_shard_that_is_missing_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "2.tar")
    with pytest.raises(DataError, match=r"^no shard \S+/0\.tar, \S+/1\.tar, \S+/3\.tar and 4 more"):
        expand_shards(["{0..5}.tar", "x-*.tar", "y.tar"], tmp_path)


@pytest.mark.parametrize("pattern", ["{0..1000000}", "{0..999}{0..999}{0,1}", "{0..9}" * 7])
def test_more_shards_than_there_can_be(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"stands for more than {MOST_SHARDS:,} shards"):
        expand_shards(f"{pattern}.tar", tmp_path)


def test_braces_that_are_longer_than_a_name_can_be(tmp_path: Path) -> None:
    names = [f"shard-number-{number:05d}" for number in range(50)]
    paths = touch(tmp_path, *(f"{name}.tar" for name in names))
    assert expand_shards(f"{{{','.join(names)}}}.tar", tmp_path) == paths


def test_names_tell_shards_apart() -> None:
    assert shard_names([Path("a/0.tar"), Path("a/1.tar")]) == ["0.tar", "1.tar"]
    assert shard_names([Path("d/a/0.tar"), Path("d/b/0.tar")]) == ["a/0.tar", "b/0.tar"]
    assert shard_names([Path("/d/0.tar"), Path("/d/b/0.tar")]) == ["0.tar", "b/0.tar"]
    assert shard_names([Path("0.tar")]) == ["0.tar"]
    assert shard_names([Path("d/0.tar"), Path("d/0.tar")]) == ["0.tar", "0.tar"]
    assert shard_names([]) == []
