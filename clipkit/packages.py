"""What this machine has: files of installed packages, a cache folder, threads, whole files."""

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipkit.errors import ClipkitError, MissingExtraError


def package_folder(package: str, *, what: str, extra: str) -> Path:
    """Return the folder of an installed package; nothing of it is run.

    Args:
        package: its import name.
        what: the feature that needs it, for the error.
        extra: the extra of clipkit that brings it, for the error.

    Raises:
        MissingExtraError: when it is not installed.
    """
    spec = importlib.util.find_spec(package.partition(".")[0])
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(what, extra)
    return Path(next(iter(spec.submodule_search_locations)))


def shipped_folder(name: str) -> Path:
    """Return `recipes` or `data_manifests`: inside an installed clipkit, or beside a checkout."""
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise ClipkitError(f"this installation of clipkit lacks its folder {name!r}: install it again")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def cache_folder() -> Path:
    """Return `$CLIPKIT_CACHE`, or `~/.cache/clipkit`: what can be made again at any time."""
    return Path(os.environ.get("CLIPKIT_CACHE") or Path.home() / ".cache" / "clipkit")


def default_threads() -> int:
    """Return how many threads read and decode unless said otherwise: the cores, at most 8."""
    return min(8, os.cpu_count() or 1)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write in that takes the place of another once it is whole.

    Args:
        target: what it becomes at the end, in place of what is there; where the writing fails, that
            stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / "old")
            staging.rename(target)
            shutil.rmtree(old)
        else:
            staging.rename(target)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, whose copy appears whole."""
    with new_folder(target) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write that takes the place of another once it is whole.

    Args:
        path: what it becomes at the end; where the writing fails, what is there stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        with part.open("r+b") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears whole."""
    with new_file(path) as part:
        part.write_bytes(content)


def file_name(text: str) -> str:
    """Return a text as a file or folder can be named; what is changed gets a mark of its own.

    >>> file_name("t-shirt")
    't-shirt'
    """
    plain = re.sub(r"[^\w.@+-]+", "_", text).strip("_.")
    if plain == text and len(text) <= 80:
        return text
    return f"{plain[-80:]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"
