import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clipkit.data.hashing import content_key, digest_key, hash_strings, stored_bytes
from clipkit.types import FileSlice


def test_equal_strings_have_equal_hashes_and_others_do_not() -> None:
    texts = [f"images/{n:07d}.jpg" for n in range(100_000)] + ["", "ä", "ab", "ba", "a", "aa"]
    hashes = hash_strings(pa.array(texts))
    assert len(np.unique(hashes)) == len(texts)
    kinds = (pa.string(), pa.large_string())
    for kind in kinds:
        np.testing.assert_array_equal(hash_strings(pa.array(texts, kind)), hashes)
    np.testing.assert_array_equal(
        hash_strings(pa.array(texts).slice(70_000, 99)), hashes[70_000:70_099]
    )
    assert (
        hash_strings(pa.array([None, ""], pa.string())).tolist()
        == hash_strings(pa.array(["", ""])).tolist()
    )
    assert len(hash_strings(pa.array([], pa.string()))) == 0


def test_swapped_letters_and_moved_words_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    letters = rng.permuted(np.tile(np.arange(97, 117, dtype=np.uint8), (50_000, 1)), axis=1)
    texts = [bytes(row).decode() for row in np.unique(letters, axis=0)]
    assert len(np.unique(hash_strings(pa.array(texts)))) == len(texts)


def test_images_of_equal_bytes_have_one_key(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    content = path.read_bytes()
    (tmp_path / "b.bin").write_bytes(b"xx" + content + b"yy")
    inner = FileSlice(tmp_path / "b.bin", 2, len(content))
    assert stored_bytes(path) == stored_bytes(content) == stored_bytes(inner) == content
    key = content_key(content)
    assert key == digest_key(hashlib.sha256(content).hexdigest()) != content_key(content + b"y")
    assert 0 <= key < 2**63
    red, blue = Image.new("RGB", (2, 3), "red"), Image.new("RGB", (3, 2), "red")
    assert stored_bytes(red) != stored_bytes(blue)
    for wrong in (tmp_path, tmp_path / "gone.png"):
        with pytest.raises(FileNotFoundError):
            stored_bytes(wrong)
