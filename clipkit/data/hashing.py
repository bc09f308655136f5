"""Numbers that stand for texts and images: equal for equal content, on any machine."""

import hashlib

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64
from PIL.Image import Image

from clipkit.types import FileSlice, ImageSource

_RANDOM = np.random.default_rng(20210)  # fixed: the same string has the same hash everywhere
_BITS = _RANDOM.integers(0, 2**64, 256, dtype=np.uint64)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 1 << 16  # strings at a time: what is held besides them stays within a few megabytes


def content_key(content: bytes) -> int:
    """Return 63 bits for some bytes: equal for equal bytes, a number that a tensor can hold."""
    return digest_key(hashlib.sha256(content).hexdigest())


def digest_key(digest: str) -> int:
    """Return the number of `content_key` from a sha256 in hex."""
    return int(digest[:16], 16) >> 1


def stored_bytes(image: ImageSource) -> bytes:
    """Return an image as it is stored, undecoded; of a PIL image its mode, size and pixels.

    Raises:
        OSError: it cannot be read, or it is no file.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, FileSlice):
        return image.read()
    if isinstance(image, Image):
        return f"{image.mode} {image.size} ".encode() + image.tobytes()
    if not image.is_file():  # a pipe, say, would be waited for
        raise FileNotFoundError(f"{image} is not a file")
    return image.read_bytes()


def hash_strings(strings: pa.Array) -> UInt64[np.ndarray, " rows"]:
    """Return 64 bits for each string of an Arrow array: equal for equal strings.

    Two of ten million different strings share theirs with a probability of about 3 in a million.
    A null has the hash of the empty string.
    """
    texts = strings.fill_null("").cast(pa.large_string())
    pieces = [_hash_piece(texts.slice(at, _PIECE)) for at in range(0, len(texts), _PIECE)]
    return np.concatenate([*pieces, np.empty(0, dtype=np.uint64)])


def _hash_piece(texts: pa.Array) -> UInt64[np.ndarray, " rows"]:
    """Sum a number for each byte and its place, mixed beyond what sums keep."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)
    offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    ends = offsets - offsets[0]
    lengths = np.diff(ends)
    place = (np.arange(len(content)) - np.repeat(ends[:-1], lengths)).astype(np.uint64)
    mixed = _BITS[content] * ((place * _SPREAD) | np.uint64(1))
    mixed ^= mixed >> np.uint64(29)
    mixed *= _BITS[7] | np.uint64(1)
    mixed ^= mixed >> np.uint64(32)
    total = np.zeros(len(content) + 1, dtype=np.uint64)
    np.cumsum(mixed, out=total[1:])
    sums: np.ndarray = total[ends[1:]] - total[ends[:-1]] + lengths.astype(np.uint64) * _BITS[0]
    return sums
