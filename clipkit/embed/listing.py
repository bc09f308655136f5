"""What tells whether a sample is as it was: its texts and the state of its image, unread."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipkit.data.hashing import stored_bytes
from clipkit.embed.rows import as_json
from clipkit.types import FileSlice, ImageSource, Sample

ENTRY = 16
"""Bytes that stand for a sample."""


def image_state(image: ImageSource | None) -> str:
    """Return what changes whenever an image does.

    Of a file that is its size and when its content and its description last changed: a file cannot
    be written without the system's noting that. An image in memory is hashed.
    """
    if image is None:
        return "none"
    if isinstance(image, Path):
        return _file_state(image)
    if isinstance(image, FileSlice):
        return f"{image.path} {image.offset} {image.size} {_file_state(image.path)}"
    return hashlib.sha256(stored_bytes(image)).hexdigest()


def entry(sample: Sample, state: str) -> bytes:
    """Return 16 bytes that stand for a sample as it is now.

    Args:
        sample: of which all texts count, and the path.
        state: of its image; empty where the image is not used.
    """
    path = str(sample.image) if isinstance(sample.image, Path) else ""
    told = [sample.id, sample.captions, sample.label, dict(sample.metadata), path, state]
    text = as_json(told).encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=ENTRY).digest()


def entries(samples: Sequence[Sample] | Iterable[Sample], *, images: bool) -> bytes:
    """Return the entries of some samples, one after the other.

    Args:
        samples: in their order.
        images: whether the images are used.
    """
    return b"".join(entry(s, image_state(s.image) if images else "") for s in samples)


def listing(schema: str, joined: bytes) -> str:
    """Return a sha256, in hex, of a shard's entries and of the columns that it has."""
    return hashlib.sha256(schema.encode() + b"\0" + joined).hexdigest()


def _file_state(path: Path) -> str:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return "absent"
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
